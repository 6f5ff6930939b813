"""What the peers share: the placeholders of the dataset file, and the one line that each of them prints."""

import json
import resource
import time

TITLE = ["No Title Data Available"]
DESCRIPTION = ["No description available Story format", "No description available", "Untitled"]
PERSON = ["User Info Error"]
TAGS = ["N,o, ,T,a,g,s, ,A,v,a,i,l,a,b,l,e"]
IMAGE = ["Image src error."]
MEDIA = {f"{kind}(story page format)": kind for kind in ("image", "video", "multi-video")}
COLUMNS = [
    "unique_id", "index", "category", "title", "description", "follower_count", "tag_list", "is_image_or_video",
    "image_src", "downloaded", "save_location", "poster_name",
]


class Measured:
    """Prints how long its block took, and the peak memory of the process and of its children."""

    def __init__(self, name):
        self.name, self.rows, self.peak_mb = name, 0, 0

    def peak_of(self, pid):
        """The peak of a process that is not waited for, such as Spark's."""
        with open(f"/proc/{pid}/status") as status:
            kilobytes = next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
        self.peak_mb = max(self.peak_mb, kilobytes / 1024)

    def __enter__(self):
        self.began = time.monotonic()
        return self

    def __exit__(self, *failure):
        seconds = time.monotonic() - self.began
        who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        peak = max(self.peak_mb, *(resource.getrusage(one).ru_maxrss / 1024 for one in who))
        print(json.dumps({"name": self.name, "rows": self.rows, "seconds": round(seconds, 3), "peak_mb": round(peak)}))
