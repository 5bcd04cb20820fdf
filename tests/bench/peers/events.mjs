// What the producers in Node share: the events, and what a producer tells at its end.
export const ENDPOINTS = 100;
const AT_ONCE = 100;
const SIZE = 1024;

export function* events(first, count) {
  for (let number = first; number < first + count; number++) {
    const endpoint = number % ENDPOINTS;
    const id = `b-${String(number).padStart(12, "0")}`;
    const head = `{"event_type":"bench.t${endpoint}","event_id":"${id}","text":"`;
    yield { endpoint, id, body: head + "x".repeat(SIZE - head.length - 2) + '"}' };
  }
}

// Hand over so many at once, and wait for them before the next.
export async function inTurns(all, hand) {
  let some = [];
  for (const event of all) {
    some.push(event);
    if (some.length === AT_ONCE) await hand(some.splice(0));
  }
  if (some.length) await hand(some);
}

// When it began to hand over (the system's monotonic clock), and its processor time from then on.
export async function told(work) {
  const began = Number(process.hrtime.bigint()) / 1e9;
  const cpu = process.cpuUsage();
  await work();
  const { user, system } = process.cpuUsage(cpu);
  console.log(JSON.stringify({ began, cpu_seconds: (user + system) / 1e6 }));
}
