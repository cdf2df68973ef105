"""A model with odd numbers: the server says so, and goes on."""

import json

import jax
import jax.numpy as jnp
import pytest

from nemojax.inference.engine import config as configs
from nemojax.inference.engine.engine import Engine
from nemojax.inference.engine.sampling import Sampling
from nemojax.inference.server import opening
from nemojax.inference.server.served import Limits
from nemojax.interop import loading, model_folder
from nemojax.models import forward
from tests.inference.server import serving_process

testing = pytest.importorskip("starlette.testclient")
pytestmark = pytest.mark.usefixtures("quick_compile")
