/* What a request costs before any work is done for it: one epoll loop that answers fixed bytes.

     bare_server CONNECTIONS < ANSWER

   Listens on a free port of the loopback and prints it. Reads whole requests, bodies by their
   Content-Length, one at a time on a connection, and answers each with the bytes of its standard
   input in one write. A client that pipelines, sends chunks, or a head in pieces is closed. Ends
   with its parent. */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define EVENTS 256
#define READ_BYTES (256 << 10)
#define MAX_ANSWER_BYTES (1 << 20)
#define MAX_FD 65536

static char answer[MAX_ANSWER_BYTES], input[READ_BYTES + 1];
static long missing[MAX_FD]; /* bytes of the body that have not arrived */

static int fail(const char *what) {
    perror(what);
    return 1;
}

/* Return the bytes that are missing of the request whose first bytes are here; -1: not one. */
static long begin(const char *head, long bytes) {
    const char *end = memmem(head, bytes, "\r\n\r\n", 4);
    const char *length = end ? strcasestr(head, "\r\ncontent-length:") : NULL;
    if (end == NULL) return -1;
    long body = length && length < end ? strtol(length + 17, NULL, 10) : 0;
    return end + 4 - head + body - bytes;
}

/* Read what has arrived, and answer if the request is whole; return 0 if the client is gone. */
static int serve(int client, long answer_bytes) {
    long bytes = read(client, input, READ_BYTES);
    if (bytes <= 0) return bytes < 0 && errno == EAGAIN;
    input[bytes] = 0;
    missing[client] = missing[client] ? missing[client] - bytes : begin(input, bytes);
    if (missing[client] > 0) return 1;
    return missing[client] == 0 && write(client, answer, answer_bytes) == answer_bytes;
}

int main(int count, char **words) {
    long answer_bytes = 0, bytes;
    while ((bytes = read(0, answer + answer_bytes, sizeof answer - answer_bytes)) > 0)
        answer_bytes += bytes;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int backlog = count > 1 ? atoi(words[1]) : 128, one = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t size = sizeof address;
    int door = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (door < 0 || bind(door, (struct sockaddr *)&address, size) || listen(door, backlog) ||
        getsockname(door, (struct sockaddr *)&address, &size))
        return fail("bare_server: no port");
    int poll = epoll_create1(0);
    struct epoll_event events[EVENTS], event = {.events = EPOLLIN, .data = {.fd = door}};
    if (poll < 0 || epoll_ctl(poll, EPOLL_CTL_ADD, door, &event)) return fail("bare_server: epoll");
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    for (;;) {
        int ready = epoll_wait(poll, events, EVENTS, -1);
        if (ready < 0 && errno != EINTR) return fail("bare_server: epoll");
        for (int i = 0; i < ready; i++) {
            int client = events[i].data.fd;
            if (client != door) {
                if (!serve(client, answer_bytes)) close(client);
                continue;
            }
            client = accept4(door, NULL, NULL, SOCK_NONBLOCK);
            if (client < 0) continue;
            event.data.fd = client;
            missing[client < MAX_FD ? client : 0] = 0;
            setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
            if (client >= MAX_FD || epoll_ctl(poll, EPOLL_CTL_ADD, client, &event)) close(client);
        }
    }
}
