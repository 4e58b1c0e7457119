"""The code of a registered model, as MLflow keeps it beside the weights: what there is to run is in the package.

MLflow runs a copy of this file whenever the model is loaded with ``mlflow.pyfunc``, with a copy of the package at hand.
"""

import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

# Caught, for MLflow shows it whatever the filters: it wants type hints for a schema, and the model has its signature.
with warnings.catch_warnings(record=True):

    class PackagedModel(PythonModel):  # type: ignore[misc]
        """A model whose artefacts are folders of plain files, and whose loader is a function of the package."""

        def load_context(self, context: Any) -> None:
            """Load the model: ``loader`` of its configuration takes the folders and returns a function."""
            module, _, name = context.model_config["loader"].partition(":")
            folders = {key: Path(path) for key, path in context.artifacts.items()}
            self.function = getattr(import_module(module), name)(folders, context.model_config)

        def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # noqa: ARG002
            """What the function makes of an input and parameters."""
            return self.function(model_input, params or {})


set_model(PackagedModel())
