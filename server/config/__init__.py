"""The service's configuration: one TOML file, overridden by `PLUMBLINE_*` variables, one frozen typed tree.

`PLUMBLINE_ENGINE__MODEL=...` overrides `[engine] model`. Unknown keys and bad values stop the start with one
line. `python -m server --check-config` prints the effective values, secrets masked.
"""

from server.config.alias import AliasConfig
from server.config.engine import LORA_TARGET_MODULES, EngineConfig
from server.config.http import ChatConfig, HttpConfig, ImageFetchConfig
from server.config.lifecycle import GateConfig, Metric, RolloutConfig, SignalsConfig, SuiteConfig
from server.config.limits import BudgetConfig, LimitsConfig, RolloutsConfig, ShadowConfig
from server.config.safety import RuleConfig
from server.config.scorers import ScorerConfig
from server.config.store import StoreConfig
from server.config.tree import Config, TracingConfig, load_config

__all__ = [
    "LORA_TARGET_MODULES",
    "AliasConfig",
    "BudgetConfig",
    "ChatConfig",
    "Config",
    "EngineConfig",
    "GateConfig",
    "HttpConfig",
    "ImageFetchConfig",
    "LimitsConfig",
    "Metric",
    "RolloutConfig",
    "RolloutsConfig",
    "RuleConfig",
    "ScorerConfig",
    "ShadowConfig",
    "SignalsConfig",
    "StoreConfig",
    "SuiteConfig",
    "TracingConfig",
    "load_config",
]
