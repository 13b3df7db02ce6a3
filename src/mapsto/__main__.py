"""python -m mapsto"""

from mapsto.cli import main

main()
