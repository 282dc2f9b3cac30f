"""What ``accelerate launch`` makes of the configuration files in examples/accelerate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "accelerate"


def launch_arguments(name: str) -> tuple[Any, Any]:
    """The launcher's arguments for one of the files, and what the file says."""
    parser: Any = launch_command_parser()
    parsed = parser.parse_args(["--config_file", str(EXAMPLES / name), "-m", "multiturn", "train"])
    # Another training on this machine may have the port that is the default.
    parsed.main_process_port = 0
    validate: Any = _validate_launch_command
    arguments, config, _ = validate(parsed)
    return arguments, config


def environment(name: str) -> dict[str, str]:
    """The variables that the launcher sets for each process because of one of the files."""
    arguments, config = launch_arguments(name)
    prepare: Any = prepare_multi_gpu_env
    if arguments.use_deepspeed:
        arguments.deepspeed_fields_from_accelerate_config = ",".join(config.deepspeed_config)
        _, variables = prepare_deepspeed_cmd_env(arguments)
    else:
        variables = prepare(arguments)
    return {key: value for key, value in variables.items() if key.startswith(("ACCELERATE_", "FSDP_"))}
