/**
 * A follower of GET /v1/changes/SOURCE, written from deploy/EVENTS.md alone: keeps a copy of a table. Arguments: address of
 * the source's changes, token, file. Server-sent events; after any cut it goes on by Last-Event-ID.
 */
import { openState } from './state.mjs';

const [address, file] = process.argv.slice(2);
const { state, save } = openState(file);

function apply(id, change) {
  const sequence = [
    change.lsn
      .split('/')
      .map((half) => half.padStart(8, '0'))
      .join(''),
    String(change.ordinal).padStart(10, '0'),
  ].join('-');
  const key = change.key.id;
  const seen = state.sequences[key];
  if (change.op !== 'r') {
    if (seen !== undefined && sequence === seen) state.repeats++;
    else if (seen !== undefined && sequence < seen) state.disorder++;
    state.sequences[key] = sequence;
  }
  state.taken++;
  if (change.op === 'd') delete state.rows[key];
  else state.rows[key] = { ...(change.unchanged.length > 0 ? state.rows[key] : {}), ...change.after };
  state.place = id;
}

/** One event, its lines as server-sent events have them. An id without data moves the place, and is no event. */
function take(block) {
  const field = (name) =>
    block
      .split('\n')
      .find((line) => line.startsWith(`${name}: `))
      ?.slice(name.length + 2);
  const [id, event, data] = ['id', 'event', 'data'].map(field);
  if (event === 'fault') throw new Error(data);
  if (data !== undefined) apply(id, JSON.parse(data));
  else if (id !== undefined) state.place = id;
}

for (;;) {
  try {
    const headers = { Accept: 'text/event-stream', ...(state.place === null ? {} : { 'Last-Event-ID': state.place }) };
    const response = await fetch(`${address}?table=public.account${state.place === null ? '&from=start' : ''}`, { headers });
    if (!response.ok) throw new Error(`status ${response.status}`);
    let text = '';
    for await (const chunk of response.body.pipeThrough(new TextDecoderStream())) {
      text += chunk;
      const blocks = text.split('\n\n');
      text = blocks.pop();
      for (const block of blocks) take(block);
      if (blocks.length > 0) save();
    }
  } catch {
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}
