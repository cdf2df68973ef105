"""A model with odd numbers: the server says so, and goes on."""

import json
import math

import jax
import jax.numpy as jnp
import pytest

from nemojax.errors import UserError
from nemojax.inference.engine import config as configs
from nemojax.inference.engine.sampling import Sampling
from nemojax.inference.server import application, opening
from nemojax.inference.server.served import Limits
from nemojax.interop import loading, model_folder
from tests.inference.server import serving_process

testing = pytest.importorskip("starlette.testclient")
pytestmark = pytest.mark.usefixtures("quick_compile")


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """A client of a model that gives NaN."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    serving_process.write_model(folder)
    stored = loading.load(folder)
    params = jax.tree.map(lambda leaf: leaf, stored.params)
    params["final_norm"]["weight"] = params["final_norm"]["weight"].at[0].set(jnp.nan)
    damaged = folder.with_name("damaged")
    files = {"tokenizer.model": (folder / "tokenizer.model").read_bytes()}
    model_folder.save(damaged, stored.config, params, files=files)
    model = loading.load(damaged)
    served = opening.open_model(model, configs.serving(2, 64), limits=Limits())
    with testing.TestClient(application.application(served)) as found:
        yield found


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("route", ["completions", "chat/completions"])
def test_log_probs_that_are_no_numbers_are_an_error_and_json(client, route, stream):
    body = {"model": "damaged", "max_tokens": 4, "stream": stream}
    if route == "completions":
        body |= {"prompt": "the", "logprobs": 2, "echo": True}
    else:
        body |= {"messages": [{"role": "user", "content": "a"}], "logprobs": True}
    found = client.post(f"/v1/{route}", json=body)
    told = found.text.splitlines()[0].removeprefix("data: ") if stream else found.text

    def refuse(constant):
        raise AssertionError(constant)

    error = json.loads(told, parse_constant=refuse)["error"]
    assert error["code"] == "not_finite" and "weights" in error["message"]
    assert found.status_code == (200 if stream else 500)
    assert client.get("/health").status_code == 200


@pytest.mark.parametrize("ids", [(-1,), (2**31,), (2**40, 3)])
def test_a_number_that_is_no_id_ends_no_engine(ids):
    with pytest.raises(UserError, match="stop_ids"):
        Sampling(stop_ids=ids)


@pytest.mark.parametrize("name", ["temperature", "top_p", "min_p"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_setting_that_is_no_number_is_refused(name, value):
    with pytest.raises(UserError, match=name):
        Sampling(**{name: value})
