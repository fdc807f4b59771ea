import type { AlertView } from '@tributary/console';
import { askOne, Fault } from '@tributary/core';
import { connect, type Connected, type Where } from '../addresses.ts';
import { type Output, table } from '../output.ts';
import { observe } from './status.ts';

export interface AlertOptions extends Where {
  readonly all?: boolean;
  readonly by: string;
}

/** A finding of an alert of a process, as its worker tells it. */
interface Told {
  readonly alert: string;
  readonly findings: readonly { readonly rule: string; readonly case: string | null; readonly reason: string }[];
}

const ASK_IDLE_MS = 10_000;

/** `alert list [--all]`; `alert ack ID`: nobody is reminded of it until there is more of it. */
export async function alertCommand(
  action: string,
  id: string | undefined,
  { options, output }: { options: AlertOptions; output: Output },
): Promise<void> {
  if (action !== 'list' && action !== 'ack')
    throw new Fault('config_invalid', `there is no action "${action}"; actions: list, ack`);
  const connected = await connect(options);
  try {
    if (action === 'list') return await list(connected, options, output);
    const [, kind, owner, alert] = /^(kpi|process)\.([a-z][a-z0-9_]*)\.(.+)$/.exec(id ?? '') ?? [];
    if (!kind || !owner || !alert)
      throw new Fault(
        'config_invalid',
        'tributary alert ack ID: kpi.NAME.ALERT or process.NAME.ALERT, as tributary alert list tells it',
      );
    const { bus } = connected.broker;
    const answer = await askOne<object>(
      bus,
      `tributary.${kind}.${owner}.acknowledge`,
      { alert, by: options.by },
      { idleMs: ASK_IDLE_MS },
    );
    if (output.json) output.value(answer);
    else output.line(`${id}: ${options.by} has taken note of it.`);
  } finally {
    await connected.broker.close();
  }
}

async function list(connected: Connected, { all }: AlertOptions, output: Output): Promise<void> {
  const views = await observe(connected, (observer) => observer.alerts());
  const alerts = await Promise.all(
    views.filter((one) => all === true || one.resolvedAt === null).map((one) => withFindings(connected, one)),
  );
  if (output.json) return output.value({ alerts });
  const rows = alerts.map((one) => {
    const id = one.kind === 'contract' ? `contract of ${one.source}, ${one.table}` : one.id;
    const state = one.kind === 'contract' ? (one.resolvedAt === null ? 'broken' : 'resolved') : one.state;
    const by = one.kind === 'contract' || one.acknowledged === null ? '' : one.acknowledged.by;
    const cases = one.findings.flatMap((finding) => finding.case ?? []);
    return [id, state, new Date(one.raisedAt).toISOString(), by, one.problem, [...new Set(cases)].join(', ')];
  });
  output.line(table(['alert', 'state', 'since', 'noted by', 'problem', 'cases'], rows));
}

/** Of a process: with the cases that it is about, which its worker tells. */
async function withFindings({ broker }: Connected, view: AlertView): Promise<AlertView & Pick<Told, 'findings'>> {
  if (view.kind !== 'process' || view.resolvedAt !== null) return { ...view, findings: [] };
  const subject = `tributary.process.${view.process}.alerts`;
  const { alerts } = await askOne<{ alerts: readonly Told[] }>(broker.bus, subject, {}, { idleMs: ASK_IDLE_MS });
  return { ...view, findings: alerts.find((one) => one.alert === view.alert)?.findings ?? [] };
}
