"""``python -m xmrank`` is the console command ``xmrank``."""

from xmrank.cli import main

if __name__ == "__main__":
    main()
