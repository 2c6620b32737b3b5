"""Chooses what to deploy, certifies it and writes the bundle with its report."""

from optikit_assets.deployment.bundle import Bundle, write_bundle
from optikit_assets.deployment.certification import Attempt, Certification, certify
from optikit_assets.deployment.evidence import Evidence, Probe, Series, Trial
from optikit_assets.deployment.outcomes import ArmMeasurement, RecipeOutcome, RecoveryRow
from optikit_assets.deployment.record import Deployment, build_deployment
from optikit_assets.deployment.selection import Arm, FourArms, Selection, arms, select
from optikit_assets.deployment.terminal import arms_table

__all__ = [
    "Arm",
    "ArmMeasurement",
    "Attempt",
    "Bundle",
    "Certification",
    "Deployment",
    "Evidence",
    "FourArms",
    "Probe",
    "RecipeOutcome",
    "RecoveryRow",
    "Selection",
    "Series",
    "Trial",
    "arms",
    "arms_table",
    "build_deployment",
    "certify",
    "select",
    "write_bundle",
]
