"""`python -m webhookd` is the same as `webhookd`."""

from webhookd.cli import main

if __name__ == "__main__":
    main()
