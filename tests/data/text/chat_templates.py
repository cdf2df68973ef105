"""Chat templates in the style of those that models are published with."""

# What an assistant's turn says without what it thought.
_ANSWER = "(m.content.split('</think>')[-1].lstrip('\\n'))"
_CHATML = "{{ '<|im_start|>' + m.role + '\\n' + %s + '<|im_end|>\\n' }}"
_OPEN_CHATML = (
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\nOPENS' }}{% endif %}"
)
_EACH = "{% for m in messages %}"
_END = "{% endfor %}"


def _chatml(content: str = "m.content", opens: str = "", first: str = "") -> str:
    return (
        first + _EACH + _CHATML % content + _END + _OPEN_CHATML.replace("OPENS", opens)
    )


def _alternate(user: str, assistant: str, opens: str = "", first: str = "") -> str:
    """A template whose system text stands before the first user's."""
    return (
        "{% if messages[0].role == 'system' %}{% set system = messages[0].content %}"
        "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}"
        + first
        + _EACH
        + "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('user and assistant must take turns') }}{% endif %}"
        "{% if m.role == 'user' %}"
        + user
        + "{% elif m.role == 'assistant' %}"
        + assistant
        + "{% endif %}"
        + _END
        + "{% if add_generation_prompt %}{{ '"
        + opens
        + "' }}{% endif %}"
    )


_HEADER = "'<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + "
_LLAMA_3 = (
    _EACH
    + "{% set content = "
    + _HEADER
    + "m['content'] | trim + '<|eot_id|>' %}"
    + "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}"
    + "{{ content }}"
    + _END
    + "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
_SYSTEM_INSIDE = (
    "{{ bos_token + '[INST] ' + ('<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n'"
    " if loop.first and system else '') + m.content.strip() + ' [/INST]' }}"
)
_QWEN_3 = """\
{%- set ns = namespace(last=messages | length - 1, searching=true) %}
{%- for m in messages[::-1] %}
    {%- set index = (messages | length - 1) - loop.index0 %}
    {%- if ns.searching and m.role == "user" and m.content is string
            and not (m.content.startswith('<tool_response>')
            and m.content.endswith('</tool_response>')) %}
        {%- set ns.searching = false %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for m in messages %}
    {%- if m.role in ["user", "system"] %}
        {{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>' + '\\n' }}
    {%- elif m.role == "assistant" %}
        {%- set content = m.content %}
        {%- set thought = '' %}
        {%- if '</think>' in m.content %}
            {%- set content = m.content.split('</think>')[-1].lstrip('\\n') %}
            {%- set thought = m.content.split('</think>')[0].rstrip('\\n') %}
            {%- set thought = thought.split('<think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last and (loop.last or thought) %}
            {{- '<|im_start|>assistant\\n<think>\\n' + thought.strip('\\n') }}
            {{- '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- '<|im_start|>assistant\\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""
_DEEPSEEK = _alternate(
    "{{ '<｜User｜>' + m.content }}",
    "{{ '<｜Assistant｜>' + %s + eos_token }}",
    "<｜Assistant｜>%s",
    "{{ bos_token + system }}",
)
_MISTRAL = _alternate(
    "{{ '[INST] ' + (system + '\\n\\n' if SYSTEM and system else '')"
    " + m.content + '[/INST]' }}",
    "{{ ' ' + m.content | trim + eos_token }}",
    first="{{ bos_token }}",
)
# Those without a token that ends an answer are rendered as text from end to end.
TEMPLATES = {
    "chatml": _chatml(),
    "chatml, default system": _chatml(
        first="{% if messages[0].role != 'system' %}"
        "{{ '<|im_start|>system\\nYou help.<|im_end|>\\n' }}{% endif %}"
    ),
    "chatml, marked": _chatml().replace(
        _CHATML % "m.content",
        "{{ '<|im_start|>' + m.role + '\\n' }}{% generation %}\n"
        "{{ m.content + '<|im_end|>' }}{% endgeneration %}\n{{ '\\n' }}",
    ),
    "chatml, shouting": _chatml("m.content | upper"),
    "chatml, short": _chatml("m.content[:5] | trim"),
    "chatml, replacing": _chatml("m.content.replace('a', 'b').replace('\\n', ' ')"),
    "chatml, json": _chatml("(m.content | tojson(indent=1))"),
    "chatml, counting": _chatml("(m.content | length | string) + ' ' + m.content"),
    "chatml, dated": _chatml(
        first="{{ strftime_now('%Y') if strftime_now is defined else 'never' }}"
    ),
    "chatml, without thoughts": _chatml(
        f"(m.content if loop.last or m.role != 'assistant' else {_ANSWER})"
    ),
    "qwen with thoughts": _QWEN_3,
    "llama 2": _alternate(
        _SYSTEM_INSIDE, "{{ ' ' + m.content.strip() + ' ' + eos_token }}"
    ),
    "llama 3": _LLAMA_3,
    "mistral": _MISTRAL.replace("SYSTEM", "loop.first"),
    "gemma": "{{ bos_token }}"
    + _EACH
    + "{% set role = 'model' if m.role == 'assistant' else m.role %}"
    "{{ '<start_of_turn>' + role + '\\n' + m.content | trim + '<end_of_turn>\\n' }}"
    + _END
    + "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}",
    "zephyr": _EACH
    + "{{ '<|' + m.role + '|>\\n' + m.content + eos_token + '\\n' }}"
    + _END
    + "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}",
    "phi": _EACH
    + "{{ '<|' + m.role + '|>\\n' + m.content + '<|end|>\\n' }}"
    + _END
    + "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}"
    "{% else %}{{ eos_token }}{% endif %}",
    "deepseek": _DEEPSEEK.replace("%s", "m.content", 1).replace("%s", ""),
    "deepseek without thoughts": _DEEPSEEK.replace(
        "%s", f"(m.content if loop.last else {_ANSWER})", 1
    ).replace("%s", ""),
    "nemotron": "{{ '<extra_id_0>System\\n' }}"
    + _alternate(
        "{{ '<extra_id_1>User\\n' + m.content.strip() + '\\n' }}",
        "{{ '<extra_id_1>Assistant\\n' + m.content.strip() + '\\n' }}",
        "<extra_id_1>Assistant\\n",
        "{{ system + '\\n' }}",
    )
    + "{% if not add_generation_prompt %}{{ '<extra_id_1>' }}{% endif %}",
    "llama nemotron": "{% if messages[0].role == 'system' and"
    " 'detailed thinking on' in messages[0].content %}{{ 'think\\n' }}{% endif %}"
    + _LLAMA_3.replace(
        "m['content'] | trim",
        "(m.content.split('</think>')[-1] if m.role == 'assistant'"
        " and not loop.last else m.content) | trim",
    ),
    "vicuna": _alternate(
        "{{ 'USER: ' + m.content + ' ' }}",
        "{{ 'ASSISTANT: ' + m.content + eos_token }}",
        "ASSISTANT:",
        "{{ bos_token + system + ' ' }}",
    ),
    "vicuna, all text": _alternate(
        "{{ 'USER: ' + m.content + '\\n' }}",
        "{{ 'ASSISTANT: ' + m.content + '\\n' }}",
        "ASSISTANT:",
        "{% if system %}{{ system + '\\n\\n' }}{% endif %}",
    ),
    "alpaca": _alternate(
        "{{ '### Instruction:\\n' + m.content + '\\n\\n' }}",
        "{{ '### Response:\\n' + m.content + eos_token + '\\n\\n' }}",
        "### Response:\\n",
        "{{ system }}",
    ),
    "without a header to ask with": _chatml().split("{% if add_gen")[0],
}
# Their prompts end with what no answer begins with.
OPENED = {
    "deepseek that thinks": _DEEPSEEK.replace("%s", _ANSWER, 1).replace(
        "%s", "<think>\\n"
    ),
    "chatml that thinks": _chatml(opens="<think>\\n"),
    "mistral, system text in the last turn": _MISTRAL.replace("SYSTEM", "loop.last"),
    "alone": "{% if messages | length == 1 %}S{% endif %}" + _LLAMA_3,
}
