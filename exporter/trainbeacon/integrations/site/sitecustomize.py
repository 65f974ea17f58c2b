"""Put first on PYTHONPATH by `trainbeacon run`, so that the processes a script starts are recorded too.

Another `sitecustomize` that stands behind this one on the path is run as it would have been.
"""

import importlib.util
import os
import sys

_here = os.path.dirname(os.path.abspath(__file__))


def _run_the_next() -> None:
    finder_path = [path for path in sys.path if os.path.abspath(path or ".") != _here]
    from importlib.machinery import PathFinder

    spec = PathFinder.find_spec("sitecustomize", finder_path)
    if spec is not None and spec.loader is not None:
        module = importlib.util.module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


_run_the_next()
try:
    from trainbeacon.integrations.auto import install_if_wanted
except ImportError:  # an interpreter that does not have the package
    pass
else:
    install_if_wanted()
