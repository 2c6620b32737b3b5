"""Results that one subsystem hands to another, and their files.

Every layer may import them. A file names the version of its shape (`Document`); what an earlier
version wrote is read, what a newer one wrote is refused.
"""

from optikit_assets.schemas.arms import Arm, ArmMeasurement, FourArms
from optikit_assets.schemas.base import Result
from optikit_assets.schemas.benchmark import (
    BENCHMARK_FILE,
    BenchmarkOutcome,
    CompletedBenchmark,
    FailedBenchmark,
    InfeasibleBenchmark,
    Rung,
    SkippedBenchmark,
)
from optikit_assets.schemas.certification import ArmCertificate, Attempt, Certification, Gain
from optikit_assets.schemas.comparison import (
    COMPARISON_FILE,
    Comparison,
    RecoveryRow,
    TaskComparison,
    TaskSpread,
    TrialComparison,
)
from optikit_assets.schemas.deployment import (
    DEPLOYMENT_FILE,
    Deployment,
    PoolOffer,
    RecipeQuality,
    Rejection,
)
from optikit_assets.schemas.document import Document
from optikit_assets.schemas.evaluation import (
    CHECKPOINTS_FILE,
    CONTAMINATION_FILE,
    UNSUPPORTED_FILE,
    Checkpoints,
    Contamination,
    Unsupported,
)
from optikit_assets.schemas.flow_results import (
    EVALUATED_RECIPE,
    MEASURED_RECIPE,
    EvaluatedRecipe,
    MeasuredRecipe,
)
from optikit_assets.schemas.probe import ProbeKind, ProbeResult, ProbeVerdict
from optikit_assets.schemas.quantization import (
    QUANTIZATION_FILE,
    SOURCES_FILE,
    CalibrationTrial,
    EvaluationSources,
    FailedCalibrationTrial,
    QuantizationResult,
)
from optikit_assets.schemas.recertification import (
    RECERTIFICATION_FILE,
    Against,
    RateRatio,
    Recertification,
    RecertificationVerdict,
    RecertifiedDeployment,
)
from optikit_assets.schemas.serving import Capacity, Probes, ServingPlan
from optikit_assets.schemas.study import (
    DEFAULT_TRIAL,
    STUDY_FILE,
    StudyResult,
    Trial,
    TrialStatus,
    TunedConfiguration,
    best_trial,
)

__all__ = [
    "BENCHMARK_FILE",
    "CHECKPOINTS_FILE",
    "COMPARISON_FILE",
    "CONTAMINATION_FILE",
    "DEFAULT_TRIAL",
    "DEPLOYMENT_FILE",
    "EVALUATED_RECIPE",
    "MEASURED_RECIPE",
    "QUANTIZATION_FILE",
    "RECERTIFICATION_FILE",
    "SOURCES_FILE",
    "STUDY_FILE",
    "UNSUPPORTED_FILE",
    "Against",
    "Arm",
    "ArmCertificate",
    "ArmMeasurement",
    "Attempt",
    "BenchmarkOutcome",
    "CalibrationTrial",
    "Capacity",
    "Certification",
    "Checkpoints",
    "Comparison",
    "CompletedBenchmark",
    "Contamination",
    "Deployment",
    "Document",
    "EvaluatedRecipe",
    "EvaluationSources",
    "FailedBenchmark",
    "FailedCalibrationTrial",
    "FourArms",
    "Gain",
    "InfeasibleBenchmark",
    "MeasuredRecipe",
    "PoolOffer",
    "ProbeKind",
    "ProbeResult",
    "ProbeVerdict",
    "Probes",
    "QuantizationResult",
    "RateRatio",
    "Recertification",
    "RecertificationVerdict",
    "RecertifiedDeployment",
    "RecipeQuality",
    "RecoveryRow",
    "Rejection",
    "Result",
    "Rung",
    "ServingPlan",
    "SkippedBenchmark",
    "StudyResult",
    "TaskComparison",
    "TaskSpread",
    "Trial",
    "TrialComparison",
    "TrialStatus",
    "TunedConfiguration",
    "Unsupported",
    "best_trial",
]
