"""Native code of the thread team: workers that wait for jobs, and the launch of a job.

Written as LLVM text since every line is about memory order. A job is announced by an odd generation
number. A worker enters it by counting itself in and looking at the number again; the caller closes the
job by the next even number and waits for those inside. Both sides write first and then read, in
sequentially consistent order, so one of them always sees the other. A job never waits for a worker
that has not entered: whoever is late, asleep or without a core finds the job closed.

A worker without a job spins for 100 us and then parks on a condition variable. Inside a job a wait
spins, then yields its core, then sleeps in short naps: a busy machine is not starved. The caller keeps
workers off its processor, and a worker that finds itself there leaves it; the caller's own affinity is
never touched.
"""

from __future__ import annotations

from string import Template

_LINE = 16  # 64-bit words between fields written by different threads: 128 bytes, two cache lines
GENERATION, INSIDE, PARKED, JOB, STOP, MUTEX, CONDITION, AVOIDED, CPUS, TIDS = (_LINE * i for i in range(10))
KNOWN_WORKERS = 256  # whose thread ids the caller knows, in words from TIDS
TEAM_BYTES = 4096

IDLE_SPIN_NS = 100_000  # between jobs, before parking
WAIT_SPIN_NS = 40_000  # inside a job, before yielding
WAIT_YIELD_NS = 2_000_000  # inside a job, before napping
NAP_NS = 50_000

_TEXT = """
%timespec = type { i64, i64 }

declare void @$pause_type
declare i32 @clock_gettime(i32, ptr)
declare i32 @nanosleep(ptr, ptr)
declare i32 @sched_yield()
declare i32 @pthread_mutex_init(ptr, ptr)
declare i32 @pthread_mutex_lock(ptr)
declare i32 @pthread_mutex_unlock(ptr)
declare i32 @pthread_cond_init(ptr, ptr)
declare i32 @pthread_cond_wait(ptr, ptr)
declare i32 @pthread_cond_broadcast(ptr)

; Monotonic time in nanoseconds.
define i64 @clock_ns() noinline {
  %now = alloca %timespec
  %rc = call i32 @clock_gettime(i32 $clock, ptr %now)
  %seconds = load i64, ptr %now
  %nanos.p = getelementptr %timespec, ptr %now, i64 0, i32 1
  %nanos = load i64, ptr %nanos.p
  %scaled = mul i64 %seconds, 1000000000
  %sum = add i64 %scaled, %nanos
  ret i64 %sum
}

; Until the counter reaches %target (signed): spin, then yield, then nap.
define void @wait_at_least(ptr %counter, i64 %target) noinline {
entry:
  %nap = alloca %timespec
  br label %turn
turn:
  %turns = phi i64 [ 0, %entry ], [ %turns.next, %again ]
  %start = phi i64 [ 0, %entry ], [ %start.next, %again ]
  %value = load atomic i64, ptr %counter acquire, align 8
  %reached = icmp sge i64 %value, %target
  br i1 %reached, label %done, label %pause
pause:
  call void @$pause
  %turns.next = add i64 %turns, 1
  %low = and i64 %turns.next, 63
  %look = icmp eq i64 %low, 0
  br i1 %look, label %time, label %again
time:
  %now = call i64 @clock_ns()
  %first = icmp eq i64 %start, 0
  %since = select i1 %first, i64 %now, i64 %start
  %elapsed = sub i64 %now, %since
  %tired = icmp sgt i64 %elapsed, $spin
  br i1 %tired, label %yield, label %again
yield:
  %weary = icmp sgt i64 %elapsed, $yield
  br i1 %weary, label %sleep, label %give
give:
  %gave = call i32 @sched_yield()
  br label %again
sleep:
  %nanos.p = getelementptr %timespec, ptr %nap, i64 0, i32 1
  store i64 0, ptr %nap
  store i64 $nap, ptr %nanos.p
  %slept = call i32 @nanosleep(ptr %nap, ptr null)
  br label %again
again:
  %start.next = phi i64 [ %start, %pause ], [ %since, %time ], [ %since, %give ], [ %since, %sleep ]
  br label %turn
done:
  ret void
}

; Generation %g announces a job that a worker which last ran %seen has to look at, or the team stops.
define i1 @has_job(ptr %team, i64 %g, i64 %seen) alwaysinline {
  %stop.p = getelementptr i64, ptr %team, i64 $STOP
  %stop = load atomic i64, ptr %stop.p seq_cst, align 8
  %stopped = icmp ne i64 %stop, 0
  %odd = trunc i64 %g to i1
  %new = icmp ne i64 %g, %seen
  %open = and i1 %odd, %new
  %ready = or i1 %open, %stopped
  ret i1 %ready
}

; The generation of the next job, or any number once the team stops.
define i64 @next_job(ptr %team, i64 %seen) noinline {
entry:
  %generation.p = getelementptr i64, ptr %team, i64 $GENERATION
  %parked.p = getelementptr i64, ptr %team, i64 $PARKED
  %mutex = getelementptr i64, ptr %team, i64 $MUTEX
  %condition = getelementptr i64, ptr %team, i64 $CONDITION
  %start = call i64 @clock_ns()
  br label %spin
spin:
  %turns = phi i64 [ 0, %entry ], [ %turns.next, %pause ], [ %turns.next, %time ]
  %g = load atomic i64, ptr %generation.p seq_cst, align 8
  %ready = call i1 @has_job(ptr %team, i64 %g, i64 %seen)
  br i1 %ready, label %found, label %pause
pause:
  call void @$pause
  %turns.next = add i64 %turns, 1
  %low = and i64 %turns.next, 63
  %look = icmp eq i64 %low, 0
  br i1 %look, label %time, label %spin
time:
  %now = call i64 @clock_ns()
  %elapsed = sub i64 %now, %start
  %tired = icmp sgt i64 %elapsed, $idle
  br i1 %tired, label %park, label %spin
park:
  %locked = call i32 @pthread_mutex_lock(ptr %mutex)
  %before = atomicrmw add ptr %parked.p, i64 1 seq_cst
  br label %check
check:
  %g2 = load atomic i64, ptr %generation.p seq_cst, align 8
  %ready2 = call i1 @has_job(ptr %team, i64 %g2, i64 %seen)
  br i1 %ready2, label %unpark, label %sleep
sleep:
  %woken = call i32 @pthread_cond_wait(ptr %condition, ptr %mutex)
  br label %check
unpark:
  %after = atomicrmw sub ptr %parked.p, i64 1 seq_cst
  %unlocked = call i32 @pthread_mutex_unlock(ptr %mutex)
  br label %found
found:
  %job = phi i64 [ %g, %spin ], [ %g2, %unpark ]
  ret i64 %job
}

define void @team_init(ptr %team) {
  %mutex = getelementptr i64, ptr %team, i64 $MUTEX
  %condition = getelementptr i64, ptr %team, i64 $CONDITION
  %a = call i32 @pthread_mutex_init(ptr %mutex, ptr null)
  %b = call i32 @pthread_cond_init(ptr %condition, ptr null)
  ret void
}

$affinity
; Life of worker %index (from 1): runs jobs until the team stops.
define void @team_work(ptr %team, i64 %index) {
entry:
  %generation.p = getelementptr i64, ptr %team, i64 $GENERATION
  %inside.p = getelementptr i64, ptr %team, i64 $INSIDE
  %job.p = getelementptr i64, ptr %team, i64 $JOB
  %argument.p = getelementptr i64, ptr %job.p, i64 1
  %workers.p = getelementptr i64, ptr %job.p, i64 2
  %stop.p = getelementptr i64, ptr %team, i64 $STOP
  %cpu.p = getelementptr i64, ptr %job.p, i64 3
  %cpus = alloca [16 x i64], align 64
  call void @own_cpus(ptr %cpus)
  call void @enroll(ptr %team, i64 %index, ptr %cpus)
  br label %idle
idle:
  %seen = phi i64 [ 0, %entry ], [ %g, %leave ]
  %g = call i64 @next_job(ptr %team, i64 %seen)
  %stop = load atomic i64, ptr %stop.p seq_cst, align 8
  %stopped = icmp ne i64 %stop, 0
  br i1 %stopped, label %exit, label %enter
enter:
  %others = atomicrmw add ptr %inside.p, i64 1 seq_cst
  %g.again = load atomic i64, ptr %generation.p seq_cst, align 8
  %open = icmp eq i64 %g.again, %g
  br i1 %open, label %check, label %leave
check:
  %workers = load i64, ptr %workers.p
  %wanted = icmp slt i64 %index, %workers
  br i1 %wanted, label %run, label %leave
run:
  %callers = load i64, ptr %cpu.p
  call void @leave_cpu(ptr %cpus, i64 %callers)
  %function = load ptr, ptr %job.p
  %argument = load ptr, ptr %argument.p
  call void %function(ptr %argument, i64 %index)
  br label %leave
leave:
  %left = atomicrmw sub ptr %inside.p, i64 1 seq_cst
  br label %idle
exit:
  ret void
}

; Wake whoever is parked. The mutex is only passed through: a worker that has looked and found nothing
; holds it until it sleeps, so the broadcast cannot come between.
define void @team_wake(ptr %team) noinline {
  %mutex = getelementptr i64, ptr %team, i64 $MUTEX
  %condition = getelementptr i64, ptr %team, i64 $CONDITION
  %locked = call i32 @pthread_mutex_lock(ptr %mutex)
  %unlocked = call i32 @pthread_mutex_unlock(ptr %mutex)
  %sent = call i32 @pthread_cond_broadcast(ptr %condition)
  ret void
}

; Run %function(%argument, worker) on the caller, worker 0, and on those of workers 1 to %workers - 1
; that come before the caller has returned from it.
define void @team_launch(ptr %team, ptr %function, ptr %argument, i64 %workers) {
entry:
  %generation.p = getelementptr i64, ptr %team, i64 $GENERATION
  %inside.p = getelementptr i64, ptr %team, i64 $INSIDE
  %parked.p = getelementptr i64, ptr %team, i64 $PARKED
  %job.p = getelementptr i64, ptr %team, i64 $JOB
  %argument.p = getelementptr i64, ptr %job.p, i64 1
  %workers.p = getelementptr i64, ptr %job.p, i64 2
  %cpu.p = getelementptr i64, ptr %job.p, i64 3
  %cpu = call i64 @current_cpu()
  store i64 %cpu, ptr %cpu.p
  call void @keep_away(ptr %team, i64 %cpu)
  store ptr %function, ptr %job.p
  store ptr %argument, ptr %argument.p
  store i64 %workers, ptr %workers.p
  %g = load atomic i64, ptr %generation.p monotonic, align 8
  %open = add i64 %g, 1
  %closed = add i64 %g, 2
  store atomic i64 %open, ptr %generation.p seq_cst, align 8
  %parked = load atomic i64, ptr %parked.p seq_cst, align 8
  %asleep = icmp sgt i64 %parked, 0
  br i1 %asleep, label %wake, label %run
wake:
  call void @team_wake(ptr %team)
  br label %run
run:
  call void %function(ptr %argument, i64 0)
  store atomic i64 %closed, ptr %generation.p seq_cst, align 8
  br label %leave
leave:
  %inside = load atomic i64, ptr %inside.p seq_cst, align 8
  %empty = icmp eq i64 %inside, 0
  br i1 %empty, label %done, label %wait
wait:
  call void @wait_until_zero(ptr %inside.p)
  br label %done
done:
  ret void
}

; Until the counter is zero.
define void @wait_until_zero(ptr %counter) noinline {
entry:
  br label %turn
turn:
  %turns = phi i64 [ 0, %entry ], [ %turns.next, %pause ], [ %turns.next, %yield ]
  %value = load atomic i64, ptr %counter seq_cst, align 8
  %zero = icmp eq i64 %value, 0
  br i1 %zero, label %done, label %pause
pause:
  call void @$pause
  %turns.next = add i64 %turns, 1
  %tired = icmp sgt i64 %turns.next, 1000
  br i1 %tired, label %yield, label %turn
yield:
  %gave = call i32 @sched_yield()
  br label %turn
done:
  ret void
}

; Let every worker return.
define void @team_stop(ptr %team) {
  %stop.p = getelementptr i64, ptr %team, i64 $STOP
  store atomic i64 1, ptr %stop.p seq_cst, align 8
  call void @team_wake(ptr %team)
  ret void
}
"""

_AFFINITY = """
declare i32 @sched_getcpu()
declare i32 @sched_getaffinity(i32, i64, ptr)
declare i32 @sched_setaffinity(i32, i64, ptr)
declare i64 @syscall(i64, ...)

; The processor this thread runs on.
define i64 @current_cpu() {
  %cpu = call i32 @sched_getcpu()
  %wide = sext i32 %cpu to i64
  ret i64 %wide
}

; The processors a worker may use when it starts, a bit each; none where there are more than 1024.
define void @own_cpus(ptr %cpus) {
  store [16 x i64] zeroinitializer, ptr %cpus, align 64
  %rc = call i32 @sched_getaffinity(i32 0, i64 128, ptr %cpus)
  ret void
}

; Tell callers this worker's thread and the processors it may use.
define void @enroll(ptr %team, i64 %index, ptr %cpus) {
entry:
  %few = icmp ult i64 %index, $KNOWN_WORKERS
  br i1 %few, label %tell, label %done
tell:
  %all = load [16 x i64], ptr %cpus, align 64
  %cpus.p = getelementptr i64, ptr %team, i64 $CPUS
  store [16 x i64] %all, ptr %cpus.p, align 64
  %tid = call i64 (i64, ...) @syscall(i64 $gettid)
  %tids = getelementptr i64, ptr %team, i64 $TIDS
  %tid.p = getelementptr i64, ptr %tids, i64 %index
  store atomic i64 %tid, ptr %tid.p release, align 8
  br label %done
done:
  ret void
}

; Let a thread (0: this one) use the processors in %cpus but %avoided. Without any other, no effect.
define void @move(i64 %tid, ptr %cpus, i64 %avoided) {
  %others = alloca [16 x i64], align 64
  %all = load [16 x i64], ptr %cpus, align 64
  store [16 x i64] %all, ptr %others, align 64
  %word = lshr i64 %avoided, 6
  %shift = and i64 %avoided, 63
  %bit = shl i64 1, %shift
  %keep = xor i64 %bit, -1
  %word.p = getelementptr i64, ptr %others, i64 %word
  %old = load i64, ptr %word.p
  %new = and i64 %old, %keep
  store i64 %new, ptr %word.p
  %narrow = trunc i64 %tid to i32
  %rc = call i32 @sched_setaffinity(i32 %narrow, i64 128, ptr %others)
  ret void
}

; Where this worker was put on the caller's processor, go to any other. The two were seen to share one
; core for whole runs while others were idle.
define void @leave_cpu(ptr %cpus, i64 %callers) noinline {
entry:
  %here = call i64 @current_cpu()
  %same = icmp eq i64 %here, %callers
  %known = icmp ult i64 %here, 1024
  %move = and i1 %same, %known
  br i1 %move, label %away, label %done
away:
  call void @move(i64 0, ptr %cpus, i64 %here)
  br label %done
done:
  ret void
}

; The caller has come to another processor: workers may use all but that one. One that waits for the
; caller's processor could not leave it before the caller does.
define void @keep_away(ptr %team, i64 %callers) noinline {
entry:
  %avoided.p = getelementptr i64, ptr %team, i64 $AVOIDED
  %cpus = getelementptr i64, ptr %team, i64 $CPUS
  %tids = getelementptr i64, ptr %team, i64 $TIDS
  %mark = add i64 %callers, 1
  %before = load i64, ptr %avoided.p
  %moved = icmp ne i64 %before, %mark
  %known = icmp ult i64 %callers, 1024
  %look = and i1 %moved, %known
  br i1 %look, label %note, label %done
note:
  store i64 %mark, ptr %avoided.p
  br label %next
next:
  %index = phi i64 [ 1, %note ], [ %index.next, %tell ]
  %tid.p = getelementptr i64, ptr %tids, i64 %index
  %tid = load atomic i64, ptr %tid.p acquire, align 8
  %index.next = add i64 %index, 1
  %there = icmp ne i64 %tid, 0
  %inside = icmp ult i64 %index, $KNOWN_WORKERS
  %more = and i1 %there, %inside
  br i1 %more, label %tell, label %done
tell:
  call void @move(i64 %tid, ptr %cpus, i64 %callers)
  br label %next
done:
  ret void
}
"""

_NO_AFFINITY = """
define i64 @current_cpu() {
  ret i64 -1
}

define void @own_cpus(ptr %cpus) {
  ret void
}

define void @leave_cpu(ptr %cpus, i64 %callers) {
  ret void
}

define void @enroll(ptr %team, i64 %index, ptr %cpus) {
  ret void
}

define void @keep_away(ptr %team, i64 %callers) {
  ret void
}
"""

TEAM_SYMBOLS = ("team_init", "team_work", "team_launch", "team_stop")


def team_text(triple: str) -> str:
    """The LLVM text of the team for a target triple, without that line."""
    arm, apple = triple.startswith(("aarch64", "arm64")), "-apple-" in triple
    affinity = _AFFINITY if "-linux" in triple else _NO_AFFINITY
    values: dict[str, object] = {
        "AVOIDED": AVOIDED, "CPUS": CPUS, "TIDS": TIDS, "KNOWN_WORKERS": KNOWN_WORKERS,
        "GENERATION": GENERATION, "INSIDE": INSIDE, "PARKED": PARKED, "JOB": JOB, "STOP": STOP,
        "MUTEX": MUTEX, "CONDITION": CONDITION, "clock": 6 if apple else 1,  # CLOCK_MONOTONIC
        "pause": "llvm.aarch64.isb(i32 15)" if arm else "llvm.x86.sse2.pause()",
        "pause_type": "llvm.aarch64.isb(i32)" if arm else "llvm.x86.sse2.pause()",
        "spin": WAIT_SPIN_NS, "yield": WAIT_YIELD_NS,
        "nap": NAP_NS, "idle": IDLE_SPIN_NS,
        "gettid": 178 if arm else 186,  # Linux's number of the system call; older C libraries have no function for it
    }
    return Template(_TEXT.replace("$affinity", affinity)).substitute(values)
