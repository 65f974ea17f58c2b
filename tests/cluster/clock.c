/* A time of day that is AHEAD seconds ahead, for one process (LD_PRELOAD); its monotonic clock stays.
   libfaketime cannot be had here: under it Python's sleep fails. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <time.h>
#include <sys/time.h>

int clock_gettime(clockid_t clock, struct timespec *now) {
  static int (*own)(clockid_t, struct timespec *);
  if (!own) own = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
  int failed = own(clock, now);
  if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += AHEAD;
  return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  struct timespec found;
  (void)zone;
  if (clock_gettime(CLOCK_REALTIME, &found)) return -1;
  now->tv_sec = found.tv_sec;
  now->tv_usec = found.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *also) {
  struct timespec found;
  clock_gettime(CLOCK_REALTIME, &found);
  if (also) *also = found.tv_sec;
  return found.tv_sec;
}
