import { Fault } from '@tributary/core';
import { type LoggedEvent, parseTime } from './logged.ts';

interface Link {
  readonly objectId: string;
  readonly qualifier: string;
}

/** What of OCEL 2.0 JSON is read. */
interface OcelLog {
  readonly events: readonly {
    readonly id: string;
    readonly type: string;
    readonly time: string;
    readonly attributes?: readonly { readonly name: string; readonly value: unknown }[];
    readonly relationships?: readonly Link[];
  }[];
  readonly objects: readonly {
    readonly id: string;
    readonly type: string;
    readonly relationships?: readonly Link[];
    readonly attributes?: readonly { readonly name: string; readonly value: unknown }[];
  }[];
}

/** An object of a log, with what it is linked to. */
export interface LoggedObject {
  readonly object: string;
  readonly key: string;
  readonly attributes: Readonly<Record<string, string>>;
  readonly links: readonly { readonly object: string; readonly key: string; readonly qualifier: string }[];
}

export interface ObjectLog {
  readonly events: readonly LoggedEvent[];
  readonly objects: readonly LoggedObject[];
}

/** The format is one JSON document, so all of it is in memory. Events keep the order of the file. @throws Fault `config_invalid` */
export async function readOcel(path: string, text: AsyncIterable<string>): Promise<ObjectLog> {
  const log = await parsed(path, text);
  const types = new Map(log.objects.map(({ id, type }) => [id, type]));
  const linked = (links: readonly Link[] | undefined, of: string) =>
    (links ?? []).map(({ objectId, qualifier }) => {
      const object = types.get(objectId);
      if (object === undefined) throw new Fault('config_invalid', `${path}: ${of} names an object that there is not`);
      return { object, key: objectId, qualifier };
    });
  return {
    events: log.events.map((event): LoggedEvent => {
      const atUs = parseTime(event.time);
      if (atUs === null) throw new Fault('config_invalid', `${path}: the time of event ${event.id} is none`);
      const objects = linked(event.relationships, `event ${event.id}`);
      return { activity: event.type, atUs, objects, attributes: textual(event.attributes) };
    }),
    objects: log.objects.map(({ id, type, relationships, attributes }) => ({
      object: type,
      key: id,
      attributes: textual(attributes),
      links: linked(relationships, `object ${id}`),
    })),
  };
}

async function parsed(path: string, text: AsyncIterable<string>): Promise<OcelLog> {
  const pieces: string[] = [];
  for await (const piece of text) pieces.push(piece);
  let value: unknown;
  try {
    value = JSON.parse(pieces.join(''));
  } catch (error) {
    throw new Fault('config_invalid', `${path} is no JSON`, {}, { cause: error });
  }
  const { events, objects } = value as Partial<OcelLog>;
  if (!Array.isArray(events) || !Array.isArray(objects)) {
    throw new Fault('config_invalid', `${path} is no OCEL 2.0 log: it lacks "events" or "objects"`);
  }
  return value as OcelLog;
}

/** Of an attribute whose value changes over time, the last one counts. */
function textual(attributes: readonly { readonly name: string; readonly value: unknown }[] | undefined): Record<string, string> {
  return Object.fromEntries((attributes ?? []).map(({ name, value }) => [name, String(value)]));
}
