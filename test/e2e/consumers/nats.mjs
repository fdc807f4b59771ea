/**
 * A receiver of events on NATS, written from deploy/EVENTS.md alone: keeps a copy of a table. Arguments: servers, stream, file.
 * The stream's sequence is kept with the rows, so reading goes on exactly where the rows stand.
 */
import { connect, DeliverPolicy } from 'nats';
import { openState } from './state.mjs';

const [servers, stream, file] = process.argv.slice(2);
const { state, save } = openState(file);
const nats = await connect({ servers, maxReconnectAttempts: -1, reconnectTimeWait: 100 });

function apply({ type, sequence, partitionkey, data }) {
  if (type === 'io.tributary.snapshot.begun' && data.reset) state.rows = {};
  if (!type.startsWith('io.tributary.row.')) return;
  const seen = state.sequences[partitionkey];
  if (seen !== undefined && sequence === seen) state.repeats++;
  else if (seen !== undefined && sequence < seen) state.disorder++;
  state.sequences[partitionkey] = sequence;
  state.taken++;
  if (data.op === 'd') delete state.rows[data.key.id];
  // Columns that were not sent keep the value they had.
  else state.rows[data.key.id] = { ...(data.unchanged.length > 0 ? state.rows[data.key.id] : {}), ...data.after };
}

for (;;) {
  try {
    const from = { deliver_policy: DeliverPolicy.StartSequence, opt_start_seq: (state.place ?? 0) + 1 };
    const consumer = await nats.jetstream().consumers.get(stream, from);
    for await (const message of await consumer.fetch({ max_messages: 200, expires: 1_000 })) {
      if (message.seq <= (state.place ?? 0)) continue;
      apply(message.json());
      state.place = message.seq;
    }
    save();
  } catch {
    // The sink has not made the stream yet, or the broker is away for a moment: again from where the rows stand.
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}
