/* A model of a slower disk, loaded into the server before everything else: each fsync and fdatasync returns SYNC_DELAY_US later.
   Nothing else is changed; tracing the server would make every system call of it slower. */
#define _GNU_SOURCE
#include <errno.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static int late(int result)
{
    int error = errno;
    struct timespec delay = { SYNC_DELAY_US / 1000000, SYNC_DELAY_US % 1000000 * 1000 };
    while (nanosleep(&delay, &delay) != 0) {
    }
    errno = error;
    return result;
}

int fsync(int file) { return late(syscall(SYS_fsync, file)); }

int fdatasync(int file) { return late(syscall(SYS_fdatasync, file)); }
