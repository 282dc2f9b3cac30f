"""Minimal chat templates with the structure of the main model families: roles, blanks, thinking, tools.

They are ours; what they have in common with the originals is where text goes and what happens to it.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from token_templates import DEFAULT_SYSTEM, LLAMA3, MISTRAL, byte_level, sentencepiece_like

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PreTrainedTokenizerBase

_CALLS = (
    "{%- for call in message['tool_calls'] or [] -%}"
    "{%- set arguments = call['function']['arguments'] -%}"
    "{{ '' if loop.first and not message['content'] else '\n' }}"
    "{{ '<tool_call>\n{\"name\": ' + call['function']['name'] | tojson + ', \"arguments\": ' }}"
    "{{ (arguments if arguments is string else arguments | tojson) + '}\n</tool_call>' }}{%- endfor -%}"
)
_RESULTS = (
    "{%- if loop.first or loop.previtem['role'] != 'tool' -%}{{ '<|im_start|>user' }}{%- endif -%}"
    "{{ '\n<tool_response>\n' + message['content'] + '\n</tool_response>' }}"
    "{%- if loop.last or loop.nextitem['role'] != 'tool' -%}{{ '<|im_end|>\n' }}{%- endif -%}"
)
_CHATML_PROMPT = "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"

# Llama 2: the system message goes into the first user message; bos before, eos after each exchange.
LLAMA2 = (
    "{%- set first = 1 if messages[0]['role'] == 'system' else 0 -%}"
    "{%- for message in messages[first:] -%}"
    "{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}"
    "{{ raise_exception('roles must alternate user/assistant') }}{%- endif -%}"
    "{%- if message['role'] == 'user' -%}"
    "{%- set system = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' -%}"
    "{%- set preamble = system if first and loop.first else '' -%}"
    "{{ bos_token + '[INST] ' + preamble + message['content'] | trim + ' [/INST]' }}"
    "{%- else -%}{{ ' ' + message['content'] | trim + ' ' + eos_token }}{%- endif -%}"
    "{%- endfor -%}"
)

# Mistral v0.3: the system message goes into the LAST user message, so it moves; tool calls and results.
MISTRAL_V3 = (
    "{{ bos_token }}"
    "{%- if tools -%}{{ '[AVAILABLE_TOOLS] ' + tools | tojson + '[/AVAILABLE_TOOLS]' }}{%- endif -%}"
    "{%- set first = 1 if messages[0]['role'] == 'system' else 0 -%}"
    "{%- set ns = namespace(last=0) -%}"
    "{%- for message in messages -%}{%- if message['role'] == 'user' -%}{%- set ns.last = loop.index0 -%}"
    "{%- endif -%}{%- endfor -%}"
    "{%- for message in messages[first:] -%}"
    "{%- if message['role'] == 'user' -%}"
    "{%- set moved = first and loop.index0 + first == ns.last -%}"
    "{%- set preamble = messages[0]['content'] + '\n\n' if moved else '' -%}"
    "{{ '[INST] ' + preamble + message['content'] + ' [/INST]' }}"
    "{%- elif message['role'] == 'tool' -%}"
    "{{ '[TOOL_RESULTS] ' + {'content': message['content']} | tojson + '[/TOOL_RESULTS]' }}"
    "{%- elif message['tool_calls'] -%}"
    "{{ '[TOOL_CALLS] [' }}{%- for call in message['tool_calls'] -%}"
    "{%- set arguments = call['function']['arguments'] -%}"
    "{{ '{\"name\": ' + call['function']['name'] | tojson + ', \"arguments\": ' }}"
    "{{ (arguments if arguments is string else arguments | tojson) + '}' + (']' if loop.last else ', ') }}"
    "{%- endfor -%}{{ eos_token }}"
    "{%- else -%}{{ ' ' + message['content'] + eos_token }}{%- endif -%}"
    "{%- endfor -%}"
)

# Qwen 2.5: a system message of its own where there is none; tool results of one step in one user message.
QWEN25 = (
    "{%- set first = 1 if messages[0]['role'] == 'system' else 0 -%}"
    "{{ '<|im_start|>system\n' + (messages[0]['content'] if first else 'You are helpful.') }}"
    "{%- for tool in tools or [] -%}{{ '\n' + tool | tojson }}{%- endfor -%}{{ '<|im_end|>\n' }}"
    "{%- for message in messages[first:] -%}"
    "{%- if message['role'] == 'tool' -%}" + _RESULTS + "{%- else -%}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] }}" + _CALLS + "{{ '<|im_end|>\n' }}"
    "{%- endif -%}{%- endfor -%}" + _CHATML_PROMPT
)

# Qwen 3: thinking is kept after the last user message only; the last answer gets an empty one without it.
QWEN3 = (
    "{%- set first = 1 if messages[0]['role'] == 'system' else 0 -%}"
    "{%- if first -%}{{ '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}{%- endif -%}"
    "{%- set ns = namespace(last=0) -%}"
    "{%- for message in messages -%}{%- if message['role'] == 'user' -%}{%- set ns.last = loop.index0 -%}"
    "{%- endif -%}{%- endfor -%}"
    "{%- for message in messages[first:] -%}"
    "{%- if message['role'] == 'tool' -%}" + _RESULTS + "{%- elif message['role'] == 'assistant' -%}"
    "{%- set answer = message['content'].split('</think>')[-1].lstrip('\n') -%}"
    "{%- set thought = message['content'].split('</think>')[0].split('<think>')[-1].strip('\n') "
    "if '</think>' in message['content'] else '' -%}"
    "{{ '<|im_start|>assistant\n' }}"
    "{%- if loop.index0 + first > ns.last and (loop.last or thought) -%}"
    "{{ '<think>\n' + thought + '\n</think>\n\n' }}{%- endif -%}{{ answer }}"
    + _CALLS
    + "{{ '<|im_end|>\n' }}"
    "{%- else -%}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{%- endif -%}"
    "{%- endfor -%}" + _CHATML_PROMPT
)

# Gemma 2: no system role at all; the assistant is called model; trimming.
GEMMA2 = (
    "{{ bos_token }}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'system' -%}{{ raise_exception('System role not supported') }}{%- endif -%}"
    "{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}"
    "{{ raise_exception('roles must alternate user/assistant') }}{%- endif -%}"
    "{%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}"
)

# Gemma 3: as Gemma 2, but the system message goes into the first user message.
GEMMA3 = (
    "{{ bos_token }}"
    "{%- set first = 1 if messages[0]['role'] == 'system' else 0 -%}"
    "{%- for message in messages[first:] -%}"
    "{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}"
    "{{ raise_exception('roles must alternate user/assistant') }}{%- endif -%}"
    "{%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}"
    "{%- set preamble = messages[0]['content'] + '\n\n' if first and loop.first else '' -%}"
    "{{ '<start_of_turn>' + role + '\n' + preamble + message['content'] | trim + '<end_of_turn>\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}"
)

# Phi 3: an end-of-text token after what is not to be continued, which another turn takes away again.
PHI3 = (
    "{%- for message in messages -%}"
    "{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}"
    "{%- endfor -%}"
    "{{ '<|assistant|>\n' if add_generation_prompt else eos_token }}"
)

# Phi 4: a separator of its own between role and content, no line breaks.
PHI4 = (
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message['role'] + '<|im_sep|>' + message['content'] + '<|im_end|>' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant<|im_sep|>' }}{%- endif -%}"
)

# DeepSeek's reasoning models: the generation prompt opens the thinking, which is dropped from every answer.
DEEPSEEK = (
    "{{ bos_token }}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'system' -%}{{ message['content'] }}"
    "{%- elif message['role'] == 'user' -%}{{ '<\uff5cUser\uff5c>' + message['content'] }}"
    "{%- else -%}"
    "{{ '<\uff5cAssistant\uff5c>' + message['content'].split('</think>')[-1] + eos_token }}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<\uff5cAssistant\uff5c><think>\n' }}{%- endif -%}"
)

_TAGS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>")
_LLAMA3_TOKENS = tuple(
    f"<|{name}|>" for name in ("begin_of_text", "end_of_text", "start_header_id", "end_header_id", "eot_id")
)
_GEMMA_TOKENS = ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>")
_PHI3_TOKENS = ("<|endoftext|>", "<|user|>", "<|system|>", "<|assistant|>", "<|end|>")
_PHI4_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_sep|>", "<|im_end|>")
_DEEPSEEK_TOKENS = (
    "<\uff5cbegin▁of▁sentence\uff5c>",
    "<\uff5cend▁of▁sentence\uff5c>",
    "<\uff5cUser\uff5c>",
    "<\uff5cAssistant\uff5c>",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """A family of models.

    Attributes:
        tokenizer: Makes a tokenizer with the family's structure.
        end: The text of the token that ends an assistant turn.
        bos: The token that begins a conversation, once; None where there is none.
        system: Whether a system message is taken, and stays where it is.
        talk: Whether conversations of several turns without thinking are taken.
        thinking: Whether thinking survives in a conversation of several turns.
        tools: Whether tool calls and results are taken.
        variant: The variant to train with where the family's own template changes what it wrote.
    """

    tokenizer: Callable[[], PreTrainedTokenizerBase]
    end: str
    bos: str | None = None
    system: bool = True
    talk: bool = True
    thinking: bool = True
    tools: bool = False
    variant: str | None = None


FAMILIES = {
    "Llama 2": Family(tokenizer=lambda: sentencepiece_like(LLAMA2), end="</s>"),
    "Llama 3": Family(
        tokenizer=lambda: byte_level(
            LLAMA3, special=_LLAMA3_TOKENS, bos="<|begin_of_text|>", eos="<|end_of_text|>"
        ),
        end="<|eot_id|>",
        bos="<|begin_of_text|>",
    ),
    "Mistral v0.1, v0.2": Family(
        tokenizer=lambda: sentencepiece_like(MISTRAL), end="</s>", bos="<s>", system=False
    ),
    "Mistral v0.3": Family(
        tokenizer=lambda: sentencepiece_like(MISTRAL_V3),
        end="</s>",
        bos="<s>",
        system=False,
        tools=True,
        variant="mistral-training",
    ),
    "Qwen 2.5": Family(tokenizer=lambda: byte_level(QWEN25, tags=_TAGS), end="<|im_end|>", tools=True),
    "Qwen 3": Family(
        tokenizer=lambda: byte_level(QWEN3, tags=_TAGS),
        end="<|im_end|>",
        talk=False,
        thinking=False,
        tools=False,
        variant="qwen3-training",
    ),
    "Gemma 2": Family(
        tokenizer=lambda: byte_level(GEMMA2, special=_GEMMA_TOKENS, bos="<bos>", eos="<eos>"),
        end="<end_of_turn>",
        bos="<bos>",
        system=False,
    ),
    "Gemma 3": Family(
        tokenizer=lambda: byte_level(GEMMA3, special=_GEMMA_TOKENS, bos="<bos>", eos="<eos>"),
        end="<end_of_turn>",
        bos="<bos>",
    ),
    "SmolLM2": Family(tokenizer=lambda: byte_level(DEFAULT_SYSTEM), end="<|im_end|>"),
    "Phi 3": Family(
        tokenizer=lambda: byte_level(PHI3, special=_PHI3_TOKENS, eos="<|endoftext|>"),
        end="<|end|>",
        talk=False,
        thinking=False,
        variant="phi-3-training",
    ),
    "Phi 4": Family(
        tokenizer=lambda: byte_level(PHI4, special=_PHI4_TOKENS, eos="<|im_end|>"), end="<|im_end|>"
    ),
    "DeepSeek R1": Family(
        tokenizer=lambda: byte_level(
            DEEPSEEK,
            special=_DEEPSEEK_TOKENS,
            bos=_DEEPSEEK_TOKENS[0],
            eos=_DEEPSEEK_TOKENS[1],
            tags=_TAGS[-2:],
        ),
        end=_DEEPSEEK_TOKENS[1],
        bos=_DEEPSEEK_TOKENS[0],
        talk=False,
        thinking=False,
        variant="deepseek-training",
    ),
}
