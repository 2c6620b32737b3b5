"""Chooses what to deploy, certifies it and writes the bundle with its report."""

from optikit_assets.deployment.bundle import Bundle, write_bundle
from optikit_assets.deployment.certificate import ArmCertificate, Attempt, Certification, Gain
from optikit_assets.deployment.certification import certify
from optikit_assets.deployment.evidence import Evidence, Probe, Series, Trial
from optikit_assets.deployment.four_arms import Arm, FourArms, arms
from optikit_assets.deployment.outcomes import ArmMeasurement, RecipeOutcome, RecoveryRow
from optikit_assets.deployment.race import FreshServers, Held, Limits, Served
from optikit_assets.deployment.record import Deployment, build_deployment
from optikit_assets.deployment.report import ConfigFile
from optikit_assets.deployment.selection import Selection, select
from optikit_assets.deployment.terminal import arms_table

__all__ = [
    "Arm",
    "ArmCertificate",
    "ArmMeasurement",
    "Attempt",
    "Bundle",
    "Certification",
    "ConfigFile",
    "Deployment",
    "Evidence",
    "FourArms",
    "FreshServers",
    "Gain",
    "Held",
    "Limits",
    "Probe",
    "RecipeOutcome",
    "RecoveryRow",
    "Selection",
    "Series",
    "Served",
    "Trial",
    "arms",
    "arms_table",
    "build_deployment",
    "certify",
    "select",
    "write_bundle",
]
