from mblip.cli.app import main

main()
