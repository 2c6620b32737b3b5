"""Results that one subsystem hands to another, and their files.

Every layer may import them. A file names the version of its shape (`Document`); what an earlier
version wrote is read, what a newer one wrote is refused.
"""

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
from optikit_assets.schemas.document import Document
from optikit_assets.schemas.probe import ProbeKind, ProbeResult, ProbeVerdict
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
    "DEFAULT_TRIAL",
    "STUDY_FILE",
    "BenchmarkOutcome",
    "CompletedBenchmark",
    "Document",
    "FailedBenchmark",
    "InfeasibleBenchmark",
    "ProbeKind",
    "ProbeResult",
    "ProbeVerdict",
    "Result",
    "Rung",
    "SkippedBenchmark",
    "StudyResult",
    "Trial",
    "TrialStatus",
    "TunedConfiguration",
    "best_trial",
]
