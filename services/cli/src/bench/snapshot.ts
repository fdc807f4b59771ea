import { startSources } from '@tributary/source';
import { barrier } from '../cluster.ts';
import type { Output } from '../output.ts';
import { measure, round } from './measure.ts';
import { openWorld, ORDERS, ordersFrom } from './world.ts';

/** Rows a second from a table into the changelog by snapshot, beside `COPY … TO STDOUT` of the same table, drained and thrown away. */
export async function benchSnapshot(rows: number, output: Output): Promise<void> {
  const world = await openWorld(['bench']);
  try {
    const session = await world.session('bench');
    await session.run(ORDERS);
    await session.run(ordersFrom(1, rows));
    await session.run('VACUUM (FREEZE, ANALYZE) public.orders');
    const copy = async () => {
      let bytes = 0;
      for await (const piece of session.copyOut('COPY public.orders TO STDOUT')) bytes += piece.length;
      if (bytes < rows) throw new Error('COPY gave too little');
    };
    await copy();
    const reference = await measure(copy);
    const ours = await measure(async () => {
      const service = await startSources(world.config([]), world.runtime);
      await barrier(world.broker.bus, 'bench', Date.now() + 600_000);
      await service.stop();
    });
    const found = await countReads(world.broker.changelogs);
    if (found !== rows) throw new Error(`the changelog holds ${found} rows, not ${rows}`);
    const rowsPerSecond = Math.round(rows / ours.seconds);
    const limit = Math.round(rows / reference.seconds);
    const result = {
      bench: 'snapshot',
      rows,
      rowsPerSecond,
      cpuMicrosPerRow: round((ours.cpuSeconds * 1e6) / rows),
      rssMb: ours.rssMb,
      reference: { name: 'COPY TO STDOUT, thrown away', rowsPerSecond: limit },
      ratio: round(rowsPerSecond / limit),
      others: [],
    };
    if (output.json) output.value(result);
    else
      output.line(
        `snapshot ${rowsPerSecond} rows/s, ${result.cpuMicrosPerRow} µs CPU a row; COPY TO STDOUT ${limit} rows/s; ratio ${result.ratio}`,
      );
  } finally {
    await world.close();
  }
}

async function countReads(changelogs: Awaited<ReturnType<typeof openWorld>>['broker']['changelogs']): Promise<number> {
  const stop = new AbortController();
  const last = (await changelogs.status('bench'))?.lastSeq ?? 0;
  let found = 0;
  for await (const batch of changelogs.read('bench', { after: { seq: 0, lsn: 0n, ordinal: 0 }, signal: stop.signal })) {
    for (const section of batch.sections) found += section.rows;
    if (batch.seq >= last) break;
  }
  stop.abort();
  return found;
}
