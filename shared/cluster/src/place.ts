/** What placement must know of one worker. */
export interface Candidate {
  readonly id: string;
  /** Null: it runs whatever labels ask for. */
  readonly labels: Readonly<Record<string, string>> | null;
  /** Its share of the work, beside the others'. */
  readonly capacity: number;
  /** Names of the assignments it knows how to run. */
  readonly assignments: ReadonlySet<string>;
}

/** What moves together from worker to worker. */
export interface Placeable {
  readonly name: string;
  /** Only workers with all of these run it. */
  readonly labels: Readonly<Record<string, string>>;
  /** Who runs it now; null = nobody. */
  readonly owner: string | null;
}

/**
 * Decides which worker runs which assignment: rendezvous hashing, bounded, and with as little movement as possible.
 *
 * - Nobody runs more than `ceil(assignments × capacity / total capacity)`. Plain rendezvous hashing is not enough: eight
 *   assignments on two workers often come out six to two.
 * - Whoever runs an assignment keeps it while that bound allows: a worker that joins takes only what is above the others'
 *   bound, a worker that leaves gives away only its own.
 * - The others go, in the order of how few can run them, to their best worker (highest score) with room; where labels
 *   leave no room anywhere, to the least loaded of those allowed.
 *
 * A function of its inputs alone, so all workers compute the same once they have seen the same.
 * Rendezvous hashing: Thaler and Ravishankar 1998; the bound: Mirrokni, Thorup and Zadimoghaddam 2018.
 * @returns worker by assignment; an assignment that nobody may run is absent
 */
export function place(assignments: readonly Placeable[], workers: readonly Candidate[]): Map<string, string> {
  const total = workers.reduce((sum, worker) => sum + worker.capacity, 0);
  const rooms = new Map(
    workers.map((worker) => [worker.id, { worker, load: 0, bound: Math.ceil((assignments.length * worker.capacity) / total) }]),
  );
  const placed = new Map<string, string>();
  const put = (assignment: string, room: Room) => {
    room.load++;
    placed.set(assignment, room.worker.id);
  };
  const choices = assignments
    .map((assignment): Choice => ({ assignment, rooms: [...rooms.values()].filter(({ worker }) => mayRun(worker, assignment)) }))
    .filter((choice) => choice.rooms.length > 0)
    .toSorted(
      (a, b) => a.rooms.length - b.rooms.length || preference(b) - preference(a) || compare(a.assignment.name, b.assignment.name),
    );
  for (const { assignment, rooms: allowed } of choices) {
    const home = allowed.find((room) => room.worker.id === assignment.owner);
    if (home && home.load < home.bound) put(assignment.name, home);
  }
  for (const { assignment, rooms: allowed } of choices) {
    if (placed.has(assignment.name)) continue;
    const free = allowed.filter((room) => room.load < room.bound);
    put(
      assignment.name,
      free.length > 0 ? best(free, (room) => score(room.worker, assignment.name)) : leastLoaded(allowed, assignment.owner),
    );
  }
  return placed;
}

interface Room {
  readonly worker: Candidate;
  readonly bound: number;
  load: number;
}

interface Choice {
  readonly assignment: Placeable;
  readonly rooms: readonly Room[];
}

function mayRun(worker: Candidate, assignment: Placeable): boolean {
  if (!worker.assignments.has(assignment.name)) return false;
  const { labels } = worker;
  return labels === null || Object.entries(assignment.labels).every(([key, value]) => labels[key] === value);
}

/** How strongly an assignment belongs where it is: of too many, the weakest leave. */
function preference({ assignment, rooms }: Choice): number {
  const home = rooms.find((room) => room.worker.id === assignment.owner);
  return home ? score(home.worker, assignment.name) : 0;
}

/** Where all are full; the owner stays unless another is truly less loaded, so that nothing goes to and fro. */
function leastLoaded(rooms: readonly Room[], owner: string | null): Room {
  return best(rooms, ({ worker, load }) => -(load + 1) / worker.capacity + (worker.id === owner ? 1e-9 : 0));
}

function best(rooms: readonly Room[], worth: (room: Room) => number): Room {
  return rooms.reduce((a, b) => {
    const difference = worth(a) - worth(b);
    return difference > 0 || (difference === 0 && a.worker.id < b.worker.id) ? a : b;
  });
}

/** Weighted rendezvous score: the higher the better; a worker of twice the capacity wins twice as often. */
function score({ id, capacity }: Candidate, assignment: string): number {
  return -capacity / Math.log((hash(`${id} ${assignment}`) + 0.5) / 2 ** 32);
}

/** FNV-1a, then the finish of MurmurHash3, which spreads names that differ in one letter. */
function hash(text: string): number {
  let h = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) h = Math.imul(h ^ text.charCodeAt(i), 0x01000193);
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
