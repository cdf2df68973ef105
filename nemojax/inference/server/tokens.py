"""POST /tokenize and /detokenize, GET /tokenizer_info, as vLLM has them."""

import asyncio

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from nemojax.inference.server.errors import ApiError
from nemojax.inference.server.protocol import DetokenizeRequest, TokenizeRequest
from nemojax.inference.server.served import Served


async def tokenize(request: Request) -> Response:
    """Encodes a text, or a conversation up to its next message.

    Text is never a control token, but for a text that is nothing else than the name of
    the token that begins or ends texts: so clients can learn their ids.
    """
    served: Served = request.app.state.served
    body = await served.body(request, TokenizeRequest)
    served.check_model(body.model)
    if body.messages is not None:
        scored = served.rewards is not None
        tokens = await served.encode_chat(body.messages, scored=scored)
    else:
        prompt = body.prompt or ""
        names = _special(served)
        if prompt in names:
            tokens = [names[prompt]]
        else:
            prefix = body.add_special_tokens
            tokens = await served.encode(prompt, "prompt", prefix=prefix)
    return JSONResponse(
        {"tokens": tokens, "count": len(tokens), "max_model_len": served.max_length}
    )


async def detokenize(request: Request) -> Response:
    """Decodes tokens; control tokens have no text."""
    served: Served = request.app.state.served
    body = await served.body(request, DetokenizeRequest)
    served.check_model(body.model)
    size = served.model.config.vocab_size
    bad = next((token for token in body.tokens if token >= size), None)
    if bad is not None:
        raise ApiError(
            400,
            f"tokens: {bad} is no token id; there are 0 to {size - 1}",
            param="tokens",
        )
    text = await asyncio.to_thread(served.model.decode, body.tokens)
    return JSONResponse({"prompt": text})


async def tokenizer_info(request: Request) -> Response:
    """Names the tokens that begin and end texts.

    There is no template here: rendered to text, it could not be told from text.
    """
    served: Served = request.app.state.served
    tokenizer = served.model.tokenizer
    ids = {role: _id(tokenizer, role) for role in ("bos", "eos")}
    return JSONResponse(
        {
            "vocab_size": tokenizer.vocab_size,
            **{
                f"{role}_token": None if id_ is None else tokenizer.piece_text(id_)
                for role, id_ in ids.items()
            },
            "chat_template": None,
        }
    )


def _special(served: Served) -> dict[str, int]:
    tokenizer = served.model.tokenizer
    ids = [_id(tokenizer, role) for role in ("bos", "eos")]
    return {tokenizer.piece_text(id_): id_ for id_ in ids if id_ is not None}


def _id(tokenizer, role: str) -> int | None:
    try:
        return getattr(tokenizer, f"{role}_id")
    except ValueError:
        return None
