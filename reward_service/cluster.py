"""The application as a Serve configuration file names it: `import_path: reward_service.cluster:app`.

`args` are the settings of `reward_service.config.ServiceConfig` by name; `deployments` may change the number,
the place and the resources of `Ingress` and `Scorer`. The cluster is there already: nothing is started here.
"""

from typing import Any

from ray.serve import Application

from phys4d.runtime.config import from_mapping
from reward_service.app import build
from reward_service.config import ServiceConfig, read_token


def app(args: dict[str, Any]) -> Application:
    """The application for these settings.

    Raises:
        ValueError: a setting is unknown or out of range, or the token file is empty.
        OSError: the token file cannot be read.
    """
    config = from_mapping(ServiceConfig, args, "the args of the Serve application")
    if config.tls.cert_file is not None:
        raise ValueError("Ray Serve has no TLS: leave tls out of args and put a gateway in front")
    read_token(config.token_file)
    return build(config)
