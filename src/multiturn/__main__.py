"""``python -m multiturn``, which launchers start: ``accelerate launch -m multiturn train ...``."""

from multiturn.cli import main

if __name__ == "__main__":
    main()
