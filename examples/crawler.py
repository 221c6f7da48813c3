"""A crawler: follows the links of a site with `urllib.request`, as many pages at a time as there are.

python examples/crawler.py [URL]    without one, of a small site that it serves itself
"""

import http.server
import re
import sys
import threading
import urllib.parse
import urllib.request

import lissom


def crawl(start):
    """Return the size of each page that can be reached from `start` without leaving its host."""
    sizes = {}
    host = urllib.parse.urlsplit(start).netloc

    def visit(url):
        with urllib.request.urlopen(url, timeout=10) as response:  # blocks this tasklet only
            body = response.read()
        sizes[url] = len(body)
        links = {urllib.parse.urljoin(url, link) for link in re.findall(r'href="([^"#]+)"', body.decode())}
        new = [link for link in links if link not in sizes and urllib.parse.urlsplit(link).netloc == host]
        sizes.update(dict.fromkeys(new, 0))  # nobody runs between the look and this: no page is visited twice
        for tasklet in [lissom.spawn(visit, link) for link in new]:
            lissom.join(tasklet)

    visit(start)
    return sizes


class Site(http.server.BaseHTTPRequestHandler):
    """Numbered pages; each links to its double and to its double plus one."""

    def do_GET(self):
        number = int(self.path.strip("/") or 1)
        links = "".join(f'<a href="/{n}">{n}</a>' for n in (2 * number, 2 * number + 1) if n < 64)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"<h1>Page {number}</h1>{links}".encode())

    def log_message(self, *_):
        pass


def main(arguments):
    lissom.hook()
    http.server.ThreadingHTTPServer.request_queue_size = 100  # all pages of a level are asked for at once
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        sizes = crawl(arguments[0] if arguments else f"http://127.0.0.1:{server.server_port}/1")
        server.shutdown()
    print(f"{len(sizes)} pages, {sum(sizes.values())} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
