/* The power and the clock of a play, for all processes that have this loaded.
 *
 * It counts what changes files, and lets nothing be changed after so many: whoever tries to dies where
 * it stands (SIGKILL). It puts the time of day forward or back; what counts seconds goes on as it did.
 *
 * The numbers are in a file that all of them map, named by OPTIKIT_PLAY_MACHINE: changes so far, after
 * how many the power is gone (-1: it stays), by how many seconds the clock was put. See `machine.py`.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static struct machine {
    atomic_long changes;
    atomic_long last;
    atomic_long put_s;
} *machine;

__attribute__((constructor)) static void find_machine(void) {
    const char *path = getenv("OPTIKIT_PLAY_MACHINE");
    int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (file < 0)
        return;
    void *at = mmap(NULL, sizeof(struct machine), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (at != MAP_FAILED)
        machine = at;
}

#define REAL(type, name, parameters)        \
    static type(*real) parameters;          \
    if (!real)                              \
        real = dlsym(RTLD_NEXT, #name)

/* ---- power ---------------------------------------------------------------------------------- */

static void change(void) {
    if (!machine)
        return;
    long number = atomic_fetch_add(&machine->changes, 1) + 1;
    long last = atomic_load(&machine->last);
    while (last >= 0 && number > last)
        kill(getpid(), SIGKILL);
}

/* Pipes, sockets and terminals keep nothing. */
static int is_file(int descriptor) {
    struct stat seen;
    return machine && fstat(descriptor, &seen) == 0 && S_ISREG(seen.st_mode);
}

#define WATCH(type, name, parameters, arguments, changes_files) \
    type name parameters {                                      \
        REAL(type, name, parameters);                           \
        if (changes_files)                                      \
            change();                                           \
        return real arguments;                                  \
    }

/* What is written. */
WATCH(ssize_t, write, (int d, const void *b, size_t n), (d, b, n), is_file(d))
WATCH(ssize_t, pwrite, (int d, const void *b, size_t n, off_t o), (d, b, n, o), is_file(d))
WATCH(ssize_t, pwrite64, (int d, const void *b, size_t n, off64_t o), (d, b, n, o), is_file(d))
WATCH(ssize_t, writev, (int d, const struct iovec *v, int n), (d, v, n), is_file(d))
WATCH(ssize_t, pwritev, (int d, const struct iovec *v, int n, off_t o), (d, v, n, o), is_file(d))
WATCH(ssize_t, pwritev64, (int d, const struct iovec *v, int n, off64_t o), (d, v, n, o), is_file(d))
WATCH(ssize_t, sendfile, (int d, int s, off_t *o, size_t n), (d, s, o, n), is_file(d))
WATCH(ssize_t, sendfile64, (int d, int s, off64_t *o, size_t n), (d, s, o, n), is_file(d))
WATCH(ssize_t, copy_file_range,
      (int s, off64_t *so, int d, off64_t *o, size_t n, unsigned f), (s, so, d, o, n, f), is_file(d))
WATCH(int, ftruncate, (int d, off_t n), (d, n), is_file(d))
WATCH(int, ftruncate64, (int d, off64_t n), (d, n), is_file(d))
WATCH(int, truncate, (const char *p, off_t n), (p, n), 1)
WATCH(int, posix_fallocate, (int d, off_t o, off_t n), (d, o, n), is_file(d))
WATCH(int, posix_fallocate64, (int d, off64_t o, off64_t n), (d, o, n), is_file(d))

/* Names. */
WATCH(int, rename, (const char *from, const char *to), (from, to), 1)
WATCH(int, renameat, (int f, const char *from, int t, const char *to), (f, from, t, to), 1)
WATCH(int, unlink, (const char *p), (p), 1)
WATCH(int, unlinkat, (int d, const char *p, int f), (d, p, f), 1)
WATCH(int, rmdir, (const char *p), (p), 1)
WATCH(int, mkdir, (const char *p, mode_t m), (p, m), 1)
WATCH(int, mkdirat, (int d, const char *p, mode_t m), (d, p, m), 1)
WATCH(int, link, (const char *from, const char *to), (from, to), 1)
WATCH(int, linkat, (int f, const char *from, int t, const char *to, int g), (f, from, t, to, g), 1)
WATCH(int, symlink, (const char *to, const char *p), (to, p), 1)
WATCH(int, symlinkat, (const char *to, int d, const char *p), (to, d, p), 1)

#define MAKES(flags) ((flags) & (O_CREAT | O_TRUNC))
#define MODE(flags)                                              \
    mode_t mode = 0;                                             \
    if ((flags) & O_CREAT || ((flags) & O_TMPFILE) == O_TMPFILE) { \
        va_list rest;                                            \
        va_start(rest, flags);                                   \
        mode = va_arg(rest, mode_t);                             \
        va_end(rest);                                            \
    }

#define WATCH_OPEN(name)                                    \
    int name(const char *path, int flags, ...) {            \
        REAL(int, name, (const char *, int, ...));          \
        MODE(flags)                                         \
        if (MAKES(flags))                                   \
            change();                                       \
        return real(path, flags, mode);                     \
    }
#define WATCH_OPENAT(name)                                  \
    int name(int folder, const char *path, int flags, ...) { \
        REAL(int, name, (int, const char *, int, ...));     \
        MODE(flags)                                         \
        if (MAKES(flags))                                   \
            change();                                       \
        return real(folder, path, flags, mode);             \
    }
WATCH_OPEN(open)
WATCH_OPEN(open64)
WATCH_OPENAT(openat)
WATCH_OPENAT(openat64)

/* ---- clock ---------------------------------------------------------------------------------- */

static long put_s(void) { return machine ? atomic_load(&machine->put_s) : 0; }

int clock_gettime(clockid_t clock, struct timespec *now) {
    REAL(int, clock_gettime, (clockid_t, struct timespec *));
    int result = real(clock, now);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += put_s();
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    REAL(int, gettimeofday, (struct timeval *, void *));
    int result = real(now, zone);
    if (result == 0)
        now->tv_sec += put_s();
    return result;
}

time_t time(time_t *now) {
    struct timespec read;
    clock_gettime(CLOCK_REALTIME, &read);
    if (now)
        *now = read.tv_sec;
    return read.tv_sec;
}

/* Who waits until a time of day means this clock's; until a time since the start is as it was. */
static struct timespec until(const struct timespec *given) {
    static const time_t A_TIME_OF_DAY = 1000000000;
    struct timespec time = *given;
    if (time.tv_sec > A_TIME_OF_DAY)
        time.tv_sec -= put_s();
    return time;
}

#define WAIT(name, parameters, arguments)  \
    int name parameters {                  \
        REAL(int, name, parameters);       \
        struct timespec end = until(time); \
        return real arguments;             \
    }

WAIT(pthread_cond_timedwait,
     (pthread_cond_t *c, pthread_mutex_t *m, const struct timespec *time), (c, m, &end))
WAIT(pthread_mutex_timedlock, (pthread_mutex_t *m, const struct timespec *time), (m, &end))
WAIT(sem_timedwait, (sem_t *s, const struct timespec *time), (s, &end))
