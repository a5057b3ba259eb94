/* relay PORT MICROSECONDS COUNTERS
 *
 * Passes TCP connections on to PORT of 127.0.0.1, with MICROSECONDS of round-trip time added: half of
 * it to every byte in either direction, and all of it before a connection's first byte, as its
 * handshake would take. It adds no other limit: no slow start, no loss, no bandwidth.
 * Prints the port that it listens on. The file COUNTERS holds two 64-bit counts of the bytes that
 * arrived: from clients, and from PORT.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MOST_LINKS = 1024, PIECE = 256 * 1024 };
/* What one direction of a connection may hold: far more than 25 ms of what loopback carries. */
static const size_t MOST_QUEUED = 256 << 20;

/* Bytes on their way; a piece of none is the end. */
struct piece {
    struct piece *next;
    int64_t due;
    size_t length, sent;
    char bytes[];
};

struct way {
    struct piece *first, **last;
    size_t queued;
    int ended, closed;
    int64_t not_before;
    uint64_t *counter;
};

/* way[0] from the client, way[1] from the server; fd alike. */
struct link {
    int fd[2];
    struct way way[2];
};

static struct link *links[MOST_LINKS];
static int count;

static int64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static struct sockaddr_in address(int port)
{
    return (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = htons(port),
                                 .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
}

static void begin(int client, int port, int64_t half, uint64_t *counters)
{
    struct sockaddr_in to = address(port);
    int one = 1, server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (count == MOST_LINKS || server < 0 || connect(server, (void *)&to, sizeof to) != 0) {
        warn("cannot pass a connection on to port %d", port);
        close(client);
        close(server);
        return;
    }
    struct link *link = calloc(1, sizeof *link);
    int fds[2] = { client, server };
    for (int i = 0; i < 2; i++) {
        link->fd[i] = fds[i];
        setsockopt(fds[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        fcntl(fds[i], F_SETFL, O_NONBLOCK);
        link->way[i].last = &link->way[i].first;
        link->way[i].counter = &counters[i];
    }
    link->way[0].not_before = now() + 2 * half;
    links[count++] = link;
}

static void take(int from, struct way *way, int64_t half)
{
    static char buffer[PIECE];
    ssize_t length = read(from, buffer, sizeof buffer);
    if (length < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (length <= 0) {
        length = 0;
        way->ended = 1;
    }
    *way->counter += length;
    struct piece *piece = malloc(sizeof *piece + length);
    int64_t at = now();
    *piece = (struct piece){ .due = (at < way->not_before ? way->not_before : at) + half,
                             .length = length };
    memcpy(piece->bytes, buffer, length);
    way->queued += length;
    *way->last = piece;
    way->last = &piece->next;
}

/* Sends what is due; false if there is nobody to send to. */
static int give(int to, struct way *way, int64_t at)
{
    while (way->first && way->first->due <= at) {
        struct piece *piece = way->first;
        while (piece->sent < piece->length) {
            ssize_t sent = write(to, piece->bytes + piece->sent, piece->length - piece->sent);
            if (sent < 0) return errno == EAGAIN || errno == EINTR;
            piece->sent += sent;
        }
        if (piece->length == 0) {
            shutdown(to, SHUT_WR);
            way->closed = 1;
        }
        way->queued -= piece->length;
        way->first = piece->next;
        if (!way->first) way->last = &way->first;
        free(piece);
    }
    return 1;
}

static void end(int number)
{
    struct link *link = links[number];
    for (int i = 0; i < 2; i++) {
        close(link->fd[i]);
        for (struct piece *piece = link->way[i].first, *next; piece; piece = next) {
            next = piece->next;
            free(piece);
        }
    }
    free(link);
    links[number] = links[--count];
}

int main(int argc, char **argv)
{
    if (argc != 4) errx(2, "usage: relay PORT MICROSECONDS COUNTERS");
    int port = atoi(argv[1]);
    int64_t half = atoll(argv[2]) * 1000 / 2;
    int file = open(argv[3], O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (file < 0 || ftruncate(file, 16) != 0) err(1, "%s", argv[3]);
    uint64_t *counters = mmap(NULL, 16, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (counters == MAP_FAILED) err(1, "%s", argv[3]);
    signal(SIGPIPE, SIG_IGN);

    struct sockaddr_in own = address(0);
    socklen_t size = sizeof own;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (bind(listener, (void *)&own, sizeof own) != 0 || listen(listener, 128) != 0 ||
        getsockname(listener, (void *)&own, &size) != 0)
        err(1, "cannot listen");
    printf("%d\n", ntohs(own.sin_port));
    fflush(stdout);

    static struct pollfd polled[2 * MOST_LINKS + 1];
    for (;;) {
        int64_t at = now(), wake = INT64_MAX;
        for (int i = 0; i < count; i++) {
            for (int j = 0; j < 2; j++) {
                struct way *in = &links[i]->way[j], *out = &links[i]->way[!j];
                int events = !in->ended && in->queued < MOST_QUEUED ? POLLIN : 0;
                if (out->first && out->first->due <= at) events |= POLLOUT;
                else if (out->first && out->first->due < wake) wake = out->first->due;
                /* Also without events poll tells of an end, again and again. */
                polled[2 * i + j] = (struct pollfd){ events ? links[i]->fd[j] : -1, events, 0 };
            }
        }
        int polling = count;
        polled[2 * polling] = (struct pollfd){ listener, POLLIN, 0 };
        int64_t left = wake - at;
        struct timespec timeout = { left / 1000000000, left % 1000000000 };
        if (ppoll(polled, 2 * polling + 1, wake == INT64_MAX ? NULL : &timeout, NULL) < 0) continue;
        at = now();
        /* From behind, as `end` puts the last link in the place of the one that ended. */
        for (int i = polling - 1; i >= 0; i--) {
            struct link *link = links[i];
            int alive = 1;
            for (int j = 0; j < 2; j++) {
                struct way *in = &link->way[j], *out = &link->way[!j];
                if (polled[2 * i + j].events & POLLIN && polled[2 * i + j].revents)
                    take(link->fd[j], in, half);
                alive &= give(link->fd[j], out, at);
            }
            if (!alive || (link->way[0].closed && link->way[1].closed)) end(i);
        }
        if (polled[2 * polling].revents) {
            int client = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
            if (client >= 0) begin(client, port, half, counters);
        }
    }
}
