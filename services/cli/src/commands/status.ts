import { registeredActors } from '@tributary/cluster';
import { Observer, type StatusView } from '@tributary/console';
import { systemClock } from '@tributary/core';
import { openLog } from '@tributary/ops';
import { connect, type Connected, type Where } from '../addresses.ts';
import { caughtUp, layoutOf } from '../cluster.ts';
import { milliseconds, type Output, table } from '../output.ts';

export interface StatusOptions extends Where {
  readonly wait?: string;
  readonly timeout: string;
}

/** Two tellings of every worker, so that rates are known. */
const LISTEN_MS = 1_200;

export async function status(options: StatusOptions, output: Output): Promise<void> {
  const connected = await connect(options);
  try {
    if (options.wait !== undefined) {
      await caughtUp(connected, await layoutOf(connected), Date.now() + milliseconds(options.timeout));
    }
    const view = await observe(connected, (observer) => observer.status());
    if (output.json) output.value(view);
    else show(view, output);
  } finally {
    await connected.broker.close();
  }
}

/** What is told within a moment. */
export async function observe<View>(connected: Connected, viewOf: (observer: Observer) => View): Promise<View> {
  const { changelogs, bus } = connected.broker;
  const observer = new Observer({
    bus,
    changelogs,
    clock: systemClock,
    log: openLog({ worker: 'command', level: 'error' }),
    sources: [],
    registered: () => registeredActors(connected.broker.kv),
  });
  await observer.start();
  await new Promise((resolve) => setTimeout(resolve, LISTEN_MS));
  const view = viewOf(observer);
  await observer.close();
  return view;
}

function show({ sources, alerts, changelogs, projections, workers, leases }: StatusView, output: Output): void {
  const size = (bytes: number | null | undefined) =>
    bytes === null || bytes === undefined ? '' : `${(bytes / 2 ** 20).toFixed(1)} MiB`;
  output.line(
    table(
      ['source', 'state', 'position', 'lag ms', 'changes', 'tables', 'WAL kept', 'snapshot'],
      sources.map((s) => [
        s.name,
        s.state,
        s.lsn,
        s.lagMs === null ? null : Math.round(s.lagMs),
        s.changes,
        s.tables,
        size(s.slot?.retainedBytes),
        s.snapshot?.table,
      ]),
    ),
  );
  output.line(
    `\n${table(
      ['changelog', 'messages', 'size'],
      changelogs.map((c) => [c.name, c.messages, size(c.bytes)]),
    )}`,
  );
  output.line(
    `\n${table(
      ['projection', 'kind', 'state', 'position', 'lag ms', 'behind', 'quarantined'],
      projections.map((p) => [
        p.name,
        p.kind,
        p.state,
        p.position?.lsn,
        p.lagMs === null ? null : Math.round(p.lagMs),
        p.lagMessages,
        p.quarantinedTables.length === 0 ? null : `${p.quarantinedBatches} of ${p.quarantinedTables.join(', ')}`,
      ]),
    )}`,
  );
  output.line(
    `\n${table(
      ['worker', 'services', 'labels', 'capacity', 'actors', 'failed', 'takeovers'],
      workers.map((w) => [
        w.worker,
        w.services.join(' '),
        Object.entries(w.labels ?? {})
          .map(([key, value]) => `${key}=${value}`)
          .join(' '),
        w.capacity,
        w.actors,
        w.failed,
        w.takeovers,
      ]),
    )}`,
  );
  output.line(
    `\n${table(
      ['lease', 'worker', 'epoch', 'held s', 'renewed s ago'],
      leases.map((l) => [l.assignment, l.worker, l.epoch, Math.round(l.heldMs / 1_000), Math.round(l.renewedMs / 1_000)]),
    )}`,
  );
  for (const alert of alerts) {
    const { problem, owner, raisedAt } = alert;
    if (alert.kind !== 'contract') {
      const since = new Date(raisedAt).toISOString();
      const whose = alert.kind === 'kpi' ? `Kpi ${alert.kpi}` : `Process ${alert.process}`;
      output.line(
        `\n${whose}, alert ${alert.alert}: ${problem}\n  ${alert.state} since ${since}.${owner ? ` ${owner} answers for it.` : ''}`,
      );
      continue;
    }
    const { source, table: name } = alert;
    output.line(
      `\n${source}, ${name}: ${problem}\n  The contract of ${owner} is broken since ${new Date(raisedAt).toISOString()}.`,
    );
  }
  for (const one of [...sources, ...projections])
    if (one.fault) output.line(`\n${one.name}: ${one.fault.message}\n  ${one.fault.advice}`);
}
