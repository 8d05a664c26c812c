#!/usr/bin/env python3
"""Makes the console's files part of the binary: one blob, and a table in C that says what is where.

Usage: embed.py OUT.c OUT.bin NAME=FILE…   (called by CMake)

Each file stands in the blob twice, as it is and packed (gzip -9, without a date: the same files give
the same bytes).  Text is served with a strong ETag made of its content.
"""

import gzip
import hashlib
import pathlib
import sys

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}


def main():
    source, blob = map(pathlib.Path, sys.argv[1:3])
    rows, data = [], b""
    for argument in sys.argv[3:]:
        name, _, path = argument.partition("=")
        plain = pathlib.Path(path).read_bytes()
        packed = gzip.compress(plain, 9, mtime=0)
        digest = hashlib.sha256(plain).hexdigest()[:24]
        kind = TYPES[pathlib.PurePath(name).suffix]
        rows.append(f'    {{"{name}", "{kind}", "{digest}", {len(data)}, {len(plain)}, '
                    f'{len(data) + len(plain)}, {len(packed)}}},')
        data += plain + packed
    blob.write_bytes(data)
    source.write_text(f'''/* Made by scripts/embed.py from web/. */
#include "roles/gateway/console.h"

__asm__(".pushsection .rodata\\n"
        ".globl console_blob\\n"
        "console_blob:\\n"
        ".incbin \\"{blob.as_posix()}\\"\\n"
        ".byte 0\\n"
        ".popsection\\n");

const struct console_file console_files[] = {{
{chr(10).join(rows)}
}};
const size_t console_file_count = {len(rows)};
''')


if __name__ == "__main__":
    main()
