"""Networks: one file each, with a `Config` (frozen dataclass) and `build(config)`."""

from types import ModuleType

from videodiff.models import lucid, unet

NETWORKS: dict[str, ModuleType] = {"unet": unet, "lucid": lucid}
