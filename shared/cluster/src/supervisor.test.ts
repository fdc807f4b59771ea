import { AssertionFailed, type Clock, Fault } from '@tributary/core';
import { describe, expect, it } from 'vitest';
import type { Actor, ActorSpec, ActorState, Log } from './actor.ts';
import { Supervisor } from './supervisor.ts';

const quiet: Log = { debug() {}, info() {}, warn() {}, error() {} };

/** A clock whose sleeps end only when the test says so. */
function heldClock(): Clock & { readonly slept: number[]; wake(): void; jump(ms: number): void } {
  const slept: number[] = [];
  let wake = () => {};
  let wall = 0;
  return {
    slept,
    jump: (ms) => (wall += ms),
    now: () => wall,
    monotonic: () => 0,
    wake: () => wake(),
    sleep: (ms, signal) =>
      new Promise((resolve, reject) => {
        slept.push(ms);
        wake = resolve;
        signal?.addEventListener('abort', () => reject(signal.reason as Error), { once: true });
      }),
  };
}

function untilAborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }));
}

function world(run: Actor['run']) {
  const clock = heldClock();
  const states: ActorState[] = [];
  const waiting: { state: ActorState; resolve: () => void }[] = [];
  const supervisor = new Supervisor(clock, quiet, () => {
    const state = supervisor.status()[0]?.state;
    if (!state) return;
    states.push(state);
    for (const one of waiting.splice(0)) {
      if (one.state === state) one.resolve();
      else waiting.push(one);
    }
  });
  const spec: ActorSpec = { name: 'a', kind: 'test', make: () => ({ run, facts: () => ({ n: 1 }) }) };
  return {
    clock,
    supervisor,
    states,
    start: () => supervisor.start(spec),
    until: (state: ActorState) => new Promise<void>((resolve) => waiting.push({ state, resolve })),
  };
}

describe('supervisor', () => {
  it('runs an actor until it is stopped, draining first', async () => {
    const w = world(async (signal, ready) => {
      ready();
      await untilAborted(signal);
    });
    w.start();
    expect(w.supervisor.status()[0]).toMatchObject({ state: 'running', fault: null, facts: { n: 1 } });
    await w.supervisor.stop('a');
    expect(w.states).toEqual(['starting', 'running', 'draining', 'stopped']);
    expect(w.supervisor.status()).toEqual([]);
  });

  it('does not take a jump of the wall clock for a minute of undisturbed work', async () => {
    const w = world(async (_signal, ready) => {
      ready();
      w.clock.jump(3_600_000);
      throw new Fault('database_unreachable', 'no route');
    });
    for (const expected of [100, 200]) {
      const waits = w.until('waiting');
      if (expected === 100) w.start();
      else w.clock.wake();
      await waits;
      expect(w.clock.slept.at(-1)).toBe(expected);
    }
    await w.supervisor.stop();
  });

  it('starts it again after a fault, with doubling back-off', async () => {
    const w = world(async () => {
      throw new Fault('database_unreachable', 'no route');
    });
    for (const expected of [100, 200, 400]) {
      const waits = w.until('waiting');
      if (expected === 100) w.start();
      else w.clock.wake();
      await waits;
      await Promise.resolve();
      expect(w.clock.slept.at(-1)).toBe(expected);
    }
    expect(w.supervisor.status()[0]).toMatchObject({
      restarts: 3,
      fault: { kind: 'database_unreachable', message: 'no route' },
      faults: { database_unreachable: 3 },
    });
    await w.supervisor.stop();
  });

  it('holds still on what only a person can mend, until nudged', async () => {
    let fails = true;
    const w = world(async (signal, ready) => {
      if (fails) throw new Fault('target_conflict', 'table has another shape');
      ready();
      await untilAborted(signal);
    });
    const failed = w.until('failed');
    w.start();
    await failed;
    await Promise.resolve();
    expect(w.clock.slept).toEqual([60_000]);
    fails = false;
    const running = w.until('running');
    w.supervisor.nudge('a');
    await running;
    expect(w.supervisor.status()[0]?.fault).toBeNull();
    await w.supervisor.stop();
  });

  it('shows an actor as failed that stays to answer, and running once it works again', async () => {
    let tried = 0;
    const w = world(async (signal, ready, halted) => {
      ready();
      await halted(new Fault('target_conflict', 'table has another shape'));
      tried++;
      ready();
      await untilAborted(signal);
    });
    const failed = w.until('failed');
    w.start();
    await failed;
    expect(w.supervisor.status()[0]).toMatchObject({ state: 'failed', restarts: 0, fault: { kind: 'target_conflict' } });
    expect(w.clock.slept).toEqual([60_000]);
    const running = w.until('running');
    w.supervisor.nudge('a');
    await running;
    expect(tried).toBe(1);
    expect(w.supervisor.status()[0]).toMatchObject({ state: 'running', fault: null, faults: { target_conflict: 1 } });
    await w.supervisor.stop();
  });

  it('treats a bug as something to report, and ends on stop', async () => {
    const bug = world(async () => {
      throw new AssertionFailed('two writers');
    });
    const failed = bug.until('failed');
    bug.start();
    await failed;
    expect(bug.supervisor.status()[0]?.fault).toMatchObject({ kind: 'bug', message: 'invariant broken: two writers' });
    await bug.supervisor.stop();
  });
});
