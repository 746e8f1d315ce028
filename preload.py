"""What the webui's command line takes for ldznet. Runs before torch is set up, so nothing is imported."""


def preload(parser):
    """Add our options to the webui's parser."""
    parser.add_argument(
        "--ldznet-heads",
        metavar="FOLDER",
        default=None,
        help="another folder with LD-ZNet heads; wins over the setting",
    )
    parser.add_argument("--ldznet-device", default=None, help="where heads run; by default where the webui runs")
    parser.add_argument(
        "--ldznet-precision",
        choices=("auto", "float32", "float16", "bfloat16", "int8"),
        default="auto",
        help="in which precision heads run; auto: as the setting says; int8: weights in 8 bits, half the memory",
    )
