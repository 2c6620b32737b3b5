"""Commands that bring a certified configuration to where it serves, and their options."""

import sys
from pathlib import Path
from typing import Annotated

import typer

delivery_app = typer.Typer()

Channel = Annotated[str, typer.Option(metavar="NAME", help="Traffic that it is for.")]


@delivery_app.command()
def deploy(
    model: Annotated[str, typer.Option(metavar="NAME[@VERSION]", help="No version: the latest.")],
    slo: Annotated[str, typer.Option(help="SLO that it was certified under.")],
    target_rps: Annotated[
        float | None,
        typer.Option(help="Traffic in requests/s; default: the certified rate of one replica."),
    ] = None,
    model_uri: Annotated[
        str | None,
        typer.Option(
            metavar="URI",
            help="Where the target takes the weights from: s3://, gs://, az://, hf://, oci:// or "
            "pvc://CLAIM/PATH; default: where it was published last, or the claim models.",
        ),
    ] = None,
    image: Annotated[
        str | None, typer.Option(help="Image; default: the engine's, of the certified version.")
    ] = None,
    bench_image: Annotated[
        str | None, typer.Option(help="Image with the optikit command, for the bench job.")
    ] = None,
    canary: Annotated[
        int | None,
        typer.Option(
            metavar="PERCENT",
            min=1,
            max=99,
            help="Also write a canary for KServe: the channel's traffic that the new bundle gets.",
        ),
    ] = None,
    channel: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Traffic of the canary; default: production."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Default: below OPTIKIT_HOME/deploy.")
    ] = None,
) -> None:
    """Write how to run a certified configuration elsewhere, with replicas for a traffic.

    Compose, Kubernetes, KServe and what else serves its engine, each with the certified flags.
    """
    from optikit_assets.cli.delivery import run_deploy

    run_deploy(model, slo, target_rps, model_uri, image, bench_image, canary, channel, out)


@delivery_app.command()
def publish(
    model: Annotated[str, typer.Option(metavar="NAME[@VERSION]", help="No version: the latest.")],
    slo: Annotated[str, typer.Option(help="SLO that it was certified under.")],
    to: Annotated[str, typer.Option(metavar="TARGET", help="Target (recipes/publish/).")],
) -> None:
    """Push the newest bundle with its weights to a bucket or a registry; its alias moves last."""
    from optikit_assets.cli.delivery import run_publish

    run_publish(model, slo, to)


@delivery_app.command()
def promote(
    model: Annotated[str, typer.Option(metavar="NAME[@VERSION]", help="No version: the latest.")],
    slo: Annotated[str, typer.Option(help="SLO that it was certified under.")],
    channel: Channel = "production",
    target_rps: Annotated[
        float | None,
        typer.Option(help="Traffic to compare costs at; default: the candidate's certified rate."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Whatever the gates say.")] = False,
    reason: Annotated[str | None, typer.Option(help="Why it is forced; kept.")] = None,
) -> None:
    """Let the newest bundle of a model take over, if every gate passes; the ledger keeps it."""
    from optikit_assets.cli.promotion import run_promote

    sys.exit(run_promote(model, slo, channel, target_rps, force, reason))


@delivery_app.command()
def rollback(
    model: Annotated[str, typer.Option(metavar="NAME", help="Model, of whichever version.")],
    slo: Annotated[str, typer.Option(help="SLO that it is deployed under.")],
    channel: Channel = "production",
    reason: Annotated[str | None, typer.Option(help="Why; kept.")] = None,
) -> None:
    """Go back to what was deployed before; once more, further back."""
    from optikit_assets.cli.promotion import run_rollback

    run_rollback(model, slo, channel, reason)


@delivery_app.command()
def recertify(
    model: Annotated[str, typer.Option(metavar="NAME[@VERSION]", help="No version: the latest.")],
    slo: Annotated[str, typer.Option(help="SLO that it was certified under.")],
    certified_on: Annotated[
        Path | None,
        typer.Option(
            metavar="HOME",
            help="OPTIKIT_HOME with the stage environments that it was certified on, served in "
            "turn with those of now; default: the record of the certification.",
        ),
    ] = None,
    quality: Annotated[
        bool,
        typer.Option("--quality", help="Also have its suite answered again, and compare."),
    ] = False,
    channel: Annotated[
        str | None,
        typer.Option(help="What is deployed in this channel; default: the newest bundle."),
    ] = None,
    json_out: Annotated[
        Path | None, typer.Option("--json", metavar="OUT", help="Also write the result as JSON.")
    ] = None,
) -> None:
    """Serve a bundle on the engine installed now, and say whether its certificate holds.

    Ends with 0 only if it is as fast as then or faster, and with --quality as good.
    """
    from optikit_assets.cli.recertify import run_recertify

    sys.exit(
        run_recertify(
            model,
            slo,
            certified_on=certified_on,
            quality=quality,
            channel=channel,
            json_out=json_out,
        )
    )


@delivery_app.command()
def deployed(
    channel: Annotated[str | None, typer.Option(help="Only this one.")] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Fetch what this machine has no link to yet, too.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what is deployed now, since when and by whom; links here follow it."""
    from optikit_assets.cli.promotion import run_deployed

    run_deployed(channel, follow, as_json)
