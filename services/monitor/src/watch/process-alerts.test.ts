import { memoryBroker } from '@tributary/changelog';
import { configReading, type HookConfig, type ProcessConfig } from '@tributary/config';
import { systemClock } from '@tributary/core';
import type { Answer, Message } from '@tributary/projection';
import { describe, expect, it } from 'vitest';
import type { Finding } from './finding.ts';
import { ProcessAlerts } from './process-alerts.ts';

const { configOf } = await configReading();

function processOf(alerts: string): ProcessConfig {
  const text = `kind: Source
name: shop
postgres: postgres://a@b/c
---
kind: Hook
name: ops
webhook: { url: "http://ops.example/", secret: "a text of more than 24 bytes", retries: { attempts: 2, first: 0s, most: 0s } }
---
kind: Process
name: flow
root: order
objects: { order: { table: shop.orders, state: status } }
drift: {}
alerts: ${alerts}
`;
  const [process] = configOf([{ name: 'a.yaml', text }], { env: {} }).processes;
  if (!process) throw new Error('there is no process');
  return process;
}
const BY_RULE = '[{ on: [rule, stuck], to: [ops], renotify: 1h }]';

const finding = (rule: string, key: string, atUs = Number(key)): Finding => ({
  kind: rule.startsWith('stuck') ? 'stuck' : 'rule',
  rule,
  severity: rule === 'pay' ? 'critical' : 'warning',
  case: key,
  id: `${rule} shop ${key}`,
  atUs,
  reason: `${rule} is broken`,
  event: null,
});

interface Letter {
  readonly alert: string;
  readonly state: string;
  readonly count: number;
  readonly new: number;
  readonly findings: readonly { case: string }[];
  readonly acknowledgedBy: string | null;
}

/** Alerts whose letters are kept; `brief` has them as `alert state new/count`. */
function world() {
  const { positions } = memoryBroker().changelogs;
  const letters: Letter[] = [];
  const ids: string[] = [];
  const hook: HookConfig = {
    name: 'ops',
    target: {
      url: 'http://x/',
      secrets: [],
      headers: {},
      timeoutMs: 1,
      concurrency: 1,
      batch: 1,
      retries: { attempts: 1, firstMs: 0, mostMs: 0 },
    },
  };
  const open = async (process: ProcessConfig, taken: Answer['kind'] = 'taken', posted = () => {}) => {
    const receiverOf = () => ({
      post: async ({ id, body }: Message): Promise<Answer> => {
        if (taken !== 'taken') return { kind: 'away', reason: 'ECONNREFUSED', retryAfterMs: null };
        ids.push(id);
        posted();
        letters.push(JSON.parse(body) as Letter);
        return { kind: 'taken' };
      },
    });
    const alerts = new ProcessAlerts({
      process,
      hooks: [hook],
      positions,
      clock: systemClock,
      warn: () => {},
      chance: () => 0,
      receiverOf,
    });
    await alerts.open();
    /** A look at `second`, with the source read up to `lsn`; and everything that is to be told is. */
    const see = async (second: number, findings: readonly Finding[], lsn = 10n) => {
      await alerts.take({ at: second * 1_000, places: new Map([['shop', { lsn, ordinal: 0 }]]), completeTo: null, findings });
      const stop = new AbortController();
      const delivering = alerts.deliver(stop.signal);
      while (taken === 'taken' && alerts.lettersLeft > 0) await new Promise((resolve) => setImmediate(resolve));
      stop.abort(new Error('enough'));
      await delivering;
    };
    return { alerts, see };
  };
  const brief = () => letters.map((one) => `${one.alert} ${one.state} ${one.new}/${one.count}`);
  return { open, letters, ids, brief };
}

describe('alerts of a process', () => {
  it('tell every finding once: the first at once, more of the same together, and the end', async () => {
    const { open, letters, brief } = world();
    const { alerts, see } = await open(processOf(BY_RULE));
    await see(1, [finding('pay', '1')]);
    await see(2, [finding('pay', '1'), finding('pay', '2')]);
    await see(3, [finding('pay', '1'), finding('pay', '2'), finding('pay', '3')]);
    expect(brief()).toEqual(['pay firing 1/1']);
    await see(11, [finding('pay', '1'), finding('pay', '2'), finding('pay', '3')]);
    await see(12, [finding('pay', '1'), finding('pay', '2'), finding('pay', '3')]);
    expect(brief()).toEqual(['pay firing 1/1', 'pay firing 2/3']);
    expect(letters[1]?.findings.map((one) => one.case)).toEqual(['2', '3']);
    expect(alerts.facts()).toMatchObject([
      { alert: 'pay', state: 'firing', severity: 'critical', problem: 'pay, in 3 cases', on: ['rule'] },
    ]);
    await see(4_000, [finding('pay', '3')]);
    await see(4_001, []);
    expect(brief().slice(2)).toEqual(['pay reminder 0/1', 'pay resolved 0/0']);
    expect(alerts.facts()).toMatchObject([{ alert: 'pay', state: 'resolved', raisedAt: 1_000, resolvedAt: 4_001_000 }]);
    await see(4_002, [finding('pay', '4')]);
    expect(brief().slice(4)).toEqual(['pay firing 1/1']);
  });

  it('by case: each case is one alert, whatever it broke, and its key stands in the letter alone', async () => {
    const { open, letters, brief } = world();
    const { alerts, see } = await open(processOf('[{ on: [rule, stuck], to: [ops], group_by: case }]'));
    await see(1, [finding('pay', '1'), finding('stuck.order.paid', '1'), finding('pay', '2')]);
    expect(brief().map((one) => one.replace(/case\.\S+/, 'case'))).toEqual(['case firing 2/2', 'case firing 1/1']);
    expect(letters.map(({ findings }) => findings[0]?.case)).toEqual(['1', '2']);
    expect(
      alerts
        .facts()
        .map(({ problem }) => problem)
        .toSorted(),
    ).toEqual(['pay, in 1 case', 'pay; order stays paid for longer than usual, in 1 case']);
    expect(JSON.stringify(alerts.facts())).not.toContain('"case"');
  });

  it('tell nothing twice after a restart, nor when the state is made anew', async () => {
    const { open, ids, brief } = world();
    const process = processOf(BY_RULE);
    const dying = await open(process, 'away');
    await dying.see(1, [finding('pay', '1')]);
    // It dies before its letter is taken; the next worker has no state, and reads from the start.
    const next = await open(process);
    await next.see(20, [], 0n);
    await next.see(21, [finding('pay', '9')], 5n);
    expect(brief()).toEqual(['pay firing 1/1']);
    expect(next.alerts.facts()).toMatchObject([{ alert: 'pay', state: 'firing' }]);
    await next.see(22, [finding('pay', '1')], 10n);
    await next.see(40, [finding('pay', '1')], 11n);
    expect(brief()).toEqual(['pay firing 1/1']);
    await next.see(41, [finding('pay', '9'), finding('pay', '1')], 12n);
    expect(brief()).toEqual(['pay firing 1/1', 'pay firing 1/2']);
    expect(new Set(ids).size).toBe(2);
    await expect(dying.see(50, [])).rejects.toMatchObject({ kind: 'fenced' });
  });

  it('what a receiver took is not sent again, though its worker was told to stop at that moment', async () => {
    const { open, ids } = world();
    const process = processOf(BY_RULE);
    const stop = new AbortController();
    const { alerts } = await open(process, 'taken', () => stop.abort(new Error('enough')));
    const places = new Map([['shop', { lsn: 10n, ordinal: 0 }]]);
    await alerts.take({ at: 1_000, places, completeTo: null, findings: [finding('pay', '1')] });
    await alerts.deliver(stop.signal);
    const next = await open(process);
    await next.see(2, [finding('pay', '1')]);
    expect(ids).toHaveLength(1);
  });

  it('are over when somebody takes note of what cannot be undone; what still lasts only reminds nobody', async () => {
    const { open, brief, letters } = world();
    const process = processOf(BY_RULE);
    const { alerts, see } = await open(process);
    const both = [finding('pay', '1'), finding('stuck.order.paid', '1')];
    await see(1, both);
    await alerts.acknowledge('pay', { by: 'ops', at: 2_000 });
    await alerts.acknowledge('stuck.order.paid', { by: 'ops', at: 2_000 });
    await see(3, both);
    expect(brief().slice(2)).toEqual(['pay resolved 0/0']);
    expect(letters[2]?.acknowledgedBy).toBe('ops');
    const again = await open(process);
    await again.see(8_000, both);
    expect(brief().slice(3)).toEqual([]);
    expect(again.alerts.facts()[0]).toMatchObject({ alert: 'stuck.order.paid', state: 'firing', acknowledged: { by: 'ops' } });
    await again.see(8_001, [...both, finding('pay', '2')]);
    expect(brief().slice(3)).toEqual(['pay firing 1/1']);
    await again.see(8_002, [finding('pay', '1'), finding('pay', '2')]);
    expect(brief().slice(4)).toEqual(['stuck.order.paid resolved 0/0']);
    await expect(again.alerts.acknowledge('stuck.order.paid', { by: 'ops', at: 1 })).rejects.toMatchObject({ kind: 'not_found' });
  });

  it('tell several definitions apart, and leave out what is not asked for', async () => {
    const { open, brief } = world();
    const { see } = await open(processOf('[{ on: [drift], to: [ops] }, { on: [rule], to: [ops] }, { on: [rule] }]'));
    await see(1, [finding('pay', '1'), finding('stuck.order.paid', '1')]);
    expect(brief()).toEqual(['pay@1 firing 1/1']);
    const { alerts, see: look } = await open(processOf('[{ on: [drift] }]'));
    await look(2, [finding('pay', '1')]);
    expect(alerts.facts().map(({ alert, state }) => [alert, state])).toEqual([
      ['pay@2', 'resolved'],
      ['pay@1', 'resolved'],
    ]);
  });

  it('remember a bounded number of findings: the oldest are let go of, and not told anew', async () => {
    const { open, brief } = world();
    const { see } = await open(processOf('[{ on: [rule], to: [ops] }]'));
    const many = Array.from({ length: 6_000 }, (_, i) => finding('pay', String(i + 1)));
    await see(1, many);
    await see(100, many);
    await see(200, [...many, finding('pay', '7000')]);
    expect(brief()).toEqual(['pay firing 6000/6000', 'pay firing 1/5001']);
  });
});
