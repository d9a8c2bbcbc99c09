/* Kills the process at its n-th write to a TCP socket, counted over all its threads.
 *
 * Loaded into the unmodified program by LD_PRELOAD. strace injects as well, but counts for each thread and each system
 * call by itself, so that most writes of a process with many threads have no number there.
 *
 * KILL_AT=n      before the n-th write is made; 0: never
 * KILL_AFTER=1   right after it instead
 * COUNT_FILE     where the number of writes is put when the program ends by itself
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

/* Held while a write is made: when the process is killed, no later write of another thread is under way. */
static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
static long n_writes, kill_at;
static int kills_after;

__attribute__((constructor)) static void start(void)
{
    const char *at = getenv("KILL_AT");
    kill_at = at ? atol(at) : 0;
    kills_after = getenv("KILL_AFTER") != NULL;
}

__attribute__((destructor)) static void end(void)
{
    /* For good: what other threads still have in mind is neither counted nor written. */
    pthread_mutex_lock(&turn);
    const char *path = getenv("COUNT_FILE");
    FILE *file = path ? fopen(path, "w") : NULL;
    if (file) {
        fprintf(file, "%ld\n", n_writes);
        fclose(file);
    }
}

static int is_tcp(int fd)
{
    struct sockaddr_storage address;
    socklen_t length = sizeof address;
    return getsockname(fd, (struct sockaddr *)&address, &length) == 0 &&
           (address.ss_family == AF_INET || address.ss_family == AF_INET6);
}

static void die(void)
{
    kill(getpid(), SIGKILL);
    for (;;)
        pause();
}

#define COUNTED(name, ...)                                                                                             \
    __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name);                                               \
    if (!is_tcp(fd))                                                                                                   \
        return real(__VA_ARGS__);                                                                                      \
    pthread_mutex_lock(&turn);                                                                                         \
    int is_meant = ++n_writes == kill_at;                                                                              \
    if (is_meant && !kills_after)                                                                                      \
        die();                                                                                                         \
    ssize_t n = real(__VA_ARGS__);                                                                                     \
    if (is_meant)                                                                                                      \
        die();                                                                                                         \
    pthread_mutex_unlock(&turn);                                                                                       \
    return n;

ssize_t write(int fd, const void *data, size_t length) { COUNTED(write, fd, data, length) }

ssize_t writev(int fd, const struct iovec *parts, int count) { COUNTED(writev, fd, parts, count) }

ssize_t send(int fd, const void *data, size_t length, int flags) { COUNTED(send, fd, data, length, flags) }

ssize_t sendmsg(int fd, const struct msghdr *message, int flags) { COUNTED(sendmsg, fd, message, flags) }

ssize_t sendto(int fd, const void *data, size_t length, int flags, const struct sockaddr *to, socklen_t to_length)
{
    COUNTED(sendto, fd, data, length, flags, to, to_length)
}
