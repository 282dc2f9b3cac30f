"""Minimal chat templates with the structure of the main model families: roles, blanks, thinking, tools.

They are ours; what they have in common with the originals is where text goes and what happens to it.
"""

from __future__ import annotations

_CALLS_BEGIN = (
    "{%- for call in message['tool_calls'] or [] -%}"
    "{%- set arguments = call['function']['arguments'] -%}"
    "{{ '' if loop.first and not message['content'] else '\n' }}"
    "{{ '<tool_call>\n{\"name\": ' + call['function']['name'] | tojson + ', \"arguments\": ' }}"
)
_CALLS_END = "{{ '}\n</tool_call>' }}{%- endfor -%}"
_CALLS = _CALLS_BEGIN + "{{ arguments if arguments is string else arguments | tojson }}" + _CALLS_END
# Arguments that are text already become a text within the text.
_CALLS_OF_OBJECTS = _CALLS_BEGIN + "{{ arguments | tojson }}" + _CALLS_END
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

# Llama 3.1: a system message in any case; one call at a time, whose arguments are called parameters; what is
# said beside a call is left out; results are JSON strings.
LLAMA31 = (
    "{{ bos_token }}"
    "{%- set first = 1 if messages[0]['role'] == 'system' else 0 -%}"
    "{{ '<|start_header_id|>system<|end_header_id|>\n\nToday is a day.\n\n' }}"
    "{{ (messages[0]['content'] | trim if first else '') + '<|eot_id|>' }}"
    "{%- for message in messages[first:] -%}"
    "{%- set role = 'ipython' if message['role'] == 'tool' else message['role'] -%}"
    "{{ '<|start_header_id|>' + role + '<|end_header_id|>\n\n' }}"
    "{%- if loop.first -%}"
    "{%- for tool in tools or [] -%}{{ tool | tojson + '\n\n' }}{%- endfor -%}{%- endif -%}"
    "{%- if 'tool_calls' in message -%}"
    "{%- if message['tool_calls'] | length != 1 -%}{{ raise_exception('one call at once') }}{%- endif -%}"
    "{%- set function = message['tool_calls'][0]['function'] -%}"
    "{{ '{\"name\": \"' + function['name'] + '\", \"parameters\": ' }}"
    "{{ function['arguments'] | tojson + '}' }}"
    "{%- elif message['role'] == 'tool' -%}{{ message['content'] | tojson }}"
    "{%- else -%}{{ message['content'] | trim }}{%- endif -%}{{ '<|eot_id|>' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif -%}"
)

# Mistral v0.3: the system message is written only while a user message is the last, in that message; the
# tools go before the last user message; what is said beside a call is left out; ids have nine characters.
MISTRAL_V3 = (
    "{{ bos_token }}"
    "{%- set first = 1 if messages[0]['role'] == 'system' else 0 -%}"
    "{%- set ns = namespace(last=0) -%}"
    "{%- for message in messages -%}{%- if message['role'] == 'user' -%}{%- set ns.last = loop.index0 -%}"
    "{%- endif -%}{%- endfor -%}"
    "{%- for message in messages[first:] -%}"
    "{%- if message['role'] == 'user' -%}"
    "{%- if tools and loop.index0 + first == ns.last -%}"
    "{{ '[AVAILABLE_TOOLS] ' + tools | tojson + '[/AVAILABLE_TOOLS]' }}{%- endif -%}"
    "{%- set preamble = messages[0]['content'] + '\n\n' if first and loop.last else '' -%}"
    "{{ '[INST] ' + preamble + message['content'] + '[/INST]' }}"
    "{%- elif message['role'] == 'tool' -%}"
    "{{ '[TOOL_RESULTS] {\"content\": ' + message['content'] | tojson + ', \"call_id\": ' }}"
    "{{ message['tool_call_id'] | tojson + '}[/TOOL_RESULTS]' }}"
    "{%- elif message['tool_calls'] -%}"
    "{{ '[TOOL_CALLS] [' }}{%- for call in message['tool_calls'] -%}"
    "{%- if call['id'] | length != 9 -%}{{ raise_exception('ids must have nine characters') }}{%- endif -%}"
    "{{ (call['function'] | tojson)[:-1] + ', \"id\": ' + call['id'] | tojson }}"
    "{{ '}]' if loop.last else '}, ' }}"
    "{%- endfor -%}{{ eos_token }}"
    "{%- else -%}{{ ' ' + message['content'] | trim + eos_token }}{%- endif -%}"
    "{%- endfor -%}"
)

# Qwen 2.5: a system message of its own where there is none; tool results of one step in one user message.
QWEN25 = (
    "{%- set first = 1 if messages[0]['role'] == 'system' else 0 -%}"
    "{{ '<|im_start|>system\n' + (messages[0]['content'] if first else 'You are helpful.') }}"
    "{%- for tool in tools or [] -%}{{ '\n' + tool | tojson }}{%- endfor -%}{{ '<|im_end|>\n' }}"
    "{%- for message in messages[first:] -%}"
    "{%- if message['role'] == 'tool' -%}" + _RESULTS + "{%- else -%}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] }}"
    + _CALLS_OF_OBJECTS
    + "{{ '<|im_end|>\n' }}{%- endif -%}{%- endfor -%}"
    + _CHATML_PROMPT
)

# Qwen 3 Instruct (2507): as Qwen 2.5 without a system message of its own; contents are never taken apart.
QWEN3_INSTRUCT = (
    "{%- set first = 1 if messages[0]['role'] == 'system' else 0 -%}"
    "{%- if first or tools -%}{{ '<|im_start|>system\n' + (messages[0]['content'] if first else '') }}"
    "{%- for tool in tools or [] -%}{{ '\n' + tool | tojson }}{%- endfor -%}{{ '<|im_end|>\n' }}{%- endif -%}"
    "{%- for message in messages[first:] -%}"
    "{%- if message['role'] == 'tool' -%}" + _RESULTS + "{%- else -%}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] }}" + _CALLS + "{{ '<|im_end|>\n' }}"
    "{%- endif -%}{%- endfor -%}" + _CHATML_PROMPT
)

# Qwen 3: thinking is kept after the last user message only; the last answer gets an empty one without it.
QWEN3 = (
    "{%- set first = 1 if messages[0]['role'] == 'system' else 0 -%}"
    "{%- if first or tools -%}{{ '<|im_start|>system\n' + (messages[0]['content'] if first else '') }}"
    "{%- for tool in tools or [] -%}{{ '\n' + tool | tojson }}{%- endfor -%}{{ '<|im_end|>\n' }}{%- endif -%}"
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

# Phi 3: an end-of-text token after what is not to be continued, which another turn takes away again; messages
# of other roles than its three are left out.
PHI3 = (
    "{%- for message in messages -%}{%- if message['role'] in ('system', 'user', 'assistant') -%}"
    "{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}"
    "{%- endif -%}{%- endfor -%}"
    "{{ '<|assistant|>\n' if add_generation_prompt else eos_token }}"
)

# Phi 4: a separator of its own between role and content, no line breaks.
PHI4 = (
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message['role'] + '<|im_sep|>' + message['content'] + '<|im_end|>' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant<|im_sep|>' }}{%- endif -%}"
)

# DeepSeek's reasoning models: the generation prompt opens the thinking, which is dropped from every answer;
# calls are written only where the content is null, and results nowhere.
DEEPSEEK = (
    "{{ bos_token }}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'system' -%}{{ message['content'] }}"
    "{%- elif message['role'] == 'user' -%}{{ '<\uff5cUser\uff5c>' + message['content'] }}"
    "{%- elif message['content'] is none -%}"
    "{{ '<\uff5cAssistant\uff5c>' + message['tool_calls'][0]['function']['name'] + eos_token }}"
    "{%- elif message['role'] == 'assistant' -%}"
    "{{ '<\uff5cAssistant\uff5c>' + message['content'].split('</think>')[-1] + eos_token }}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<\uff5cAssistant\uff5c><think>\n' }}{%- endif -%}"
)
