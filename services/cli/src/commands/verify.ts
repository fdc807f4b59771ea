import { Fault } from '@tributary/core';
import { connect, type Where } from '../addresses.ts';
import { caughtUp, layoutOf, projectionSubject } from '../cluster.ts';
import { milliseconds, type Output, openProgress, table } from '../output.ts';

export interface VerifyOptions extends Where {
  readonly source?: string;
  readonly table?: string;
  readonly timeout: string;
}

interface VerifiedTable {
  readonly source: string;
  readonly table: string;
  readonly projection: string;
  readonly rows: number;
  readonly equal: boolean;
  readonly differences: readonly { readonly key: string; readonly problem: string }[];
}

/** Compares every projection with its source, table by table. @returns true when all are equal */
export async function verify(options: VerifyOptions, output: Output): Promise<boolean> {
  const connected = await connect(options);
  try {
    const layout = await layoutOf(connected);
    if (options.source !== undefined && !layout.sources.includes(options.source)) {
      throw new Fault('not_found', `there is no source ${options.source}. Sources: ${layout.sources.join(', ')}`);
    }
    const sources = options.source === undefined ? layout.sources : [options.source];
    const projections = layout.projections.filter(({ name }) => sources.includes(name.slice(name.indexOf('/') + 1)));
    const barriers = await caughtUp(connected, { sources, projections }, Date.now() + milliseconds(options.timeout));
    const wanted = options.table?.includes('.') ? options.table : options.table && `public.${options.table}`;
    const tables: VerifiedTable[] = [];
    const progress = openProgress({ ...output, json: false }, 'verify');
    for (const projection of projections) {
      const { name, actors } = projection;
      const source = name.slice(name.indexOf('/') + 1);
      const { seq, tables: captured } = barriers.get(source) ?? { seq: 0, tables: [] };
      const chosen = captured.filter((one) => wanted === undefined || one === wanted);
      if (wanted !== undefined && chosen.length === 0 && options.source !== undefined) {
        throw new Fault('not_found', `source ${source} has no captured table ${wanted}`);
      }
      if (chosen.length === 0) continue;
      for (const actor of actors) {
        const parts = connected.broker.bus.ask(projectionSubject(actor, 'verify'), { tables: chosen, seq }, { idleMs: 600_000 });
        for await (const part of parts) {
          tables.push(part as VerifiedTable);
          progress.at(tables.length, chosen.length * projections.length, part);
        }
      }
    }
    progress.end();
    const equal = tables.every((one) => one.equal);
    if (output.json) output.value({ equal, tables });
    else show(tables, equal, output);
    return equal;
  } finally {
    await connected.broker.close();
  }
}

function show(tables: readonly VerifiedTable[], equal: boolean, output: Output): void {
  output.line(
    table(
      ['source', 'table', 'projection', 'rows', ''],
      tables.map((one) => [
        one.source,
        one.table,
        one.projection,
        one.rows,
        one.equal ? 'equal' : `${one.differences.length} or more keys differ`,
      ]),
    ),
  );
  for (const one of tables)
    for (const { key, problem } of one.differences) output.line(`  ${one.projection} ${one.table}: ${key} is ${problem}`);
  output.line(equal ? 'Everything is equal.' : 'There are differences.');
}
