"""What holds for every test: no example of hypothesis is judged by the time it took, which is the machine's affair."""

from hypothesis import settings

settings.register_profile("firehose", deadline=None)
settings.load_profile("firehose")
