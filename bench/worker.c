/* worker open LIST TIMES         open, read and close every file that LIST names, TIMES over
 * worker stat LIST TIMES         stat every one
 * worker random FILE TIMES       TIMES reads of 4 KiB in each of 4 threads, at places all over FILE,
 *                                the same each time
 *
 * Programs that cost so little themselves that the file system's share shows. Fails if anything does.
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { THREADS = 4, BLOCK = 4096 };

static const char *file;
static long times;

static void read_file(const char *name)
{
    static char buffer[64 * 1024];
    ssize_t got;
    int fd = open(name, O_RDONLY);
    if (fd < 0) err(1, "%s", name);
    while ((got = read(fd, buffer, sizeof buffer)) > 0)
        ;
    if (got < 0 || close(fd) != 0) err(1, "%s", name);
}

static void stat_file(const char *name)
{
    struct stat found;
    if (stat(name, &found) != 0) err(1, "%s", name);
}

static void each(const char *list, void (*visit)(const char *))
{
    FILE *names = fopen(list, "r");
    char *text = NULL;
    size_t size = 0;
    if (!names || getdelim(&text, &size, '\0', names) < 0) err(1, "%s", list);
    size_t length = strlen(text);
    for (char *at = text; at < text + length; at++)
        if (*at == '\n') *at = '\0';
    for (long i = 0; i < times; i++)
        for (char *at = text; at < text + length; at += strlen(at) + 1)
            visit(at);
}

static void *read_blocks(void *number)
{
    char block[BLOCK];
    struct stat found;
    uint64_t state = 88172645463325252ULL + (uintptr_t)number;
    int fd = open(file, O_RDONLY);
    if (fd < 0 || fstat(fd, &found) != 0) err(1, "%s", file);
    for (long i = 0; i < times; i++) {
        /* xorshift64 */
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        if (pread(fd, block, BLOCK, state % (found.st_size / BLOCK) * BLOCK) != BLOCK)
            err(1, "%s", file);
    }
    close(fd);
    return NULL;
}

int main(int argc, char **argv)
{
    if (argc != 4) errx(2, "usage: worker open|stat|random FILE TIMES");
    file = argv[2];
    times = atol(argv[3]);
    if (strcmp(argv[1], "open") == 0) each(file, read_file);
    else if (strcmp(argv[1], "stat") == 0) each(file, stat_file);
    else if (strcmp(argv[1], "random") == 0) {
        pthread_t threads[THREADS];
        for (uintptr_t i = 0; i < THREADS; i++)
            if (pthread_create(&threads[i], NULL, read_blocks, (void *)i) != 0) errx(1, "no thread");
        for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    } else errx(2, "usage: worker open|stat|random FILE TIMES");
    return 0;
}
