"""Chooses what to deploy, certifies it and writes the bundle with its report."""

from optikit_assets.deployment.across_pools import (
    Contender,
    certify_cheapest,
    costs_per_million,
    offers,
)
from optikit_assets.deployment.bundle import Bundle, ConfigFile, write_bundle
from optikit_assets.deployment.certification import certify
from optikit_assets.deployment.four_arms import arms
from optikit_assets.deployment.outcomes import RecipeOutcome
from optikit_assets.deployment.race import FreshServers, Held, Limits, Served, Start
from optikit_assets.deployment.recertification import RecordedServers, recertify
from optikit_assets.deployment.record import build_deployment
from optikit_assets.deployment.report_data import HeldLease, ReportData, Series
from optikit_assets.deployment.selection import Selection, select
from optikit_assets.deployment.terminal import arms_table, pools_table

__all__ = [
    "Bundle",
    "ConfigFile",
    "Contender",
    "FreshServers",
    "Held",
    "HeldLease",
    "Limits",
    "RecipeOutcome",
    "RecordedServers",
    "ReportData",
    "Selection",
    "Series",
    "Served",
    "Start",
    "arms",
    "arms_table",
    "build_deployment",
    "certify",
    "certify_cheapest",
    "costs_per_million",
    "offers",
    "pools_table",
    "recertify",
    "select",
    "write_bundle",
]
