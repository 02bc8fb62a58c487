"""`python -m mmdit_probe` and `accelerate launch -m mmdit_probe` are the command line."""

from .cli import main

if __name__ == "__main__":
    main()
