"""`python -m jmamba`: the command line where its script is not on the path."""

from jmamba.cli import main

if __name__ == "__main__":
    main()
