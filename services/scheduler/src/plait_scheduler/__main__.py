"""`python -m plait_scheduler`."""

import sys

from plait_scheduler.main import main

sys.exit(main())
