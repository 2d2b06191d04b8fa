/**
 * Follows events of the relay in a browser (or in Node), through restarts, cuts and expired tickets, and misses none.
 *
 *     import { follow } from '/static/relay.js'
 *     const following = follow('/v1/jobs/ID/events?ticket=…', {
 *       event(event) { … },                      // {id, type, timestamp, data: {job}}, each once and in order
 *       renew: async () => (await newTicket()).eventsUrl,
 *     })
 *     following.close()
 *
 * The address is that of a ticket (`eventsUrl`), of a job (`/v1/jobs/ID/events`), or `/v1/events?…` for whoever has
 * signed in. Why not a plain EventSource: it gives up for ever on a 401, 429, 502 or 503 and does not say which, it does
 * not notice a connection that has died, and six of them block an HTTP/1.1 origin for all tabs of a browser.
 *
 * All tabs share one SharedWorker (Chromium, Firefox, Safari: no tab has to lead, and none that is frozen in the
 * background holds the others up). It opens one connection for each address, whoever follows it, and at most
 * STREAMS_MAX at once: more addresses than that take turns, so that requests and videos always find a connection.
 * What stands behind a # in an address is not sent, and keeps the streams of two sessions apart.
 * Where there is no SharedWorker (Chrome on Android) a tab connects by itself, but only while somebody looks at it.
 *
 * `options`, all of them optional functions but the first two:
 *     since         where to begin: 'now', 'earliest', '10m', a time; default as the relay has it for the address
 *     lastEventId   begin behind this event instead
 *     event(event)  an event
 *     open(info)    what `stream.open` says: after the first connection and after every one that had been lost
 *     gap(gap)      events may be missing, {requested, earliest, missed, snapshot}: read the snapshot
 *     state(state)  {name: 'open' | 'waiting', status, inMs}: the connection as a person may want to see it
 *     renew()       a new address (or a promise of one) when the ticket in the old one is over; null ends it
 *     end(end)      nothing more will come: {reason: 'over' | 'unauthorized' | 'refused' | 'closed', status}
 */

const STREAMS_MAX = 3 // of the six connections that a browser has for one HTTP/1.1 origin
const TURN_MS = 1_500
const RETRY_MAX_MS = 30_000
const RENEW_MS = 15_000
const RENEWALS_MAX = 5
const LASTING = new Set([408, 425, 429]) // of the 4xx, those that pass by themselves
const FINAL = new Set(['job.succeeded', 'job.failed', 'job.cancelled'])
const PROTOCOL = 1 // of page and worker; another one makes another worker

/** Follow `url`; gives `{lastEventId, close(), retry()}`. */
export function follow(url, options = {}) {
  return new Following(new URL(url, globalThis.location?.href).href, options)
}

/** What a page holds: talks to the worker, or to a hub of its own. */
class Following {
  #options
  #url
  #link = null
  #stop = new AbortController()

  constructor(url, options) {
    this.#url = url
    this.#options = options
    this.lastEventId = options.lastEventId ?? null
    this.#join(canShare())
  }

  close() {
    this.#finish({ reason: 'closed' })
  }

  /** Do not wait any longer for the next try. */
  retry() {
    this.#link?.send({ nudge: true })
  }

  #join(shared) {
    const listen = (target, name, handler) => target.addEventListener?.(name, handler, { signal: this.#stop.signal })
    const begin = () => {
      if (this.#link) return
      const { since } = this.#options
      const wish = { url: this.#url, since, lastEventId: this.lastEventId, renews: Boolean(this.#options.renew) }
      const alone = () => {
        this.#link = null
        shared = false
        begin()
      }
      try {
        this.#link = (shared ? toWorker : toHub)(wish, (message) => this.#take(message), alone)
      } catch (error) {
        // No such worker here: an older browser, a stricter policy.
        if (!shared) throw error
        alone()
      }
    }
    const leave = () => {
      this.#link?.close()
      this.#link = null
    }
    begin()
    listen(globalThis, 'online', () => this.retry())
    if (!globalThis.document) return
    listen(globalThis, 'pagehide', leave)
    listen(globalThis, 'pageshow', begin) // from the back-forward cache
    listen(document, 'visibilitychange', () => {
      if (document.visibilityState === 'hidden') return shared || leave()
      begin()
      this.retry()
    })
  }

  async #take({ name, value, id }) {
    if (this.#stop.signal.aborted) return
    if (id) this.lastEventId = id
    if (name === 'end') return this.#finish(value)
    if (name !== 'renew') return this.#options[name]?.(value)
    let url
    try {
      url = await this.#options.renew()
    } catch {} // asked again after the next failure
    if (url) url = this.#url = new URL(url, globalThis.location?.href).href
    this.#link?.send({ renewed: url })
  }

  #finish(end) {
    if (this.#stop.signal.aborted) return
    this.#stop.abort()
    this.#link?.close()
    this.#link = null
    this.#options.end?.(end)
  }
}

/** A worker's script must come from its page's own origin; the relay may be elsewhere. */
const canShare = () =>
  typeof SharedWorker !== 'undefined' && new URL(import.meta.url).origin === globalThis.location?.origin

/** This file, for pages whose policy wants such addresses trusted by name (`trusted-types relay`). */
let script
const ownScript = () => {
  const policy = () => globalThis.trustedTypes?.createPolicy('relay', { createScriptURL: () => import.meta.url })
  return (script ??= policy()?.createScriptURL('') ?? import.meta.url)
}

/** A follower in the worker that all tabs share. */
function toWorker(wish, take, failed) {
  const worker = new SharedWorker(ownScript(), { type: 'module', name: `relay-${PROTOCOL}` })
  const lock = `relay-${Math.random()}`
  const release = new AbortController()
  worker.onerror = failed
  worker.port.onmessage = ({ data }) => take(data)
  // A worker is not told that a tab has gone: it waits for a lock that the tab holds as long as it lives.
  globalThis.navigator.locks?.request(lock, { signal: release.signal }, () => {
    worker.port.postMessage({ lock })
    return new Promise((done) => (release.signal.onabort = done))
  }).catch(() => {}) // given up before it was granted
  worker.port.postMessage({ wish })
  return {
    send: (message) => worker.port.postMessage(message),
    close() {
      worker.port.postMessage({ leave: true })
      worker.port.close()
      release.abort()
    },
  }
}

/** A follower in this page's own hub. */
function toHub(wish, take) {
  toHub.hub ??= new Hub()
  return toHub.hub.join(wish, (message) => queueMicrotask(() => take(message)))
}

/** One connection for each address, at most STREAMS_MAX at once. */
class Hub {
  #sources = new Map()
  #turns = []
  #open = 0

  join(wish, send) {
    const follower = { seen: wish.lastEventId, send, renews: wish.renews, renewed: null, opened: false }
    const there = this.#sources.get(wish.url)
    const source = there && !there.ended ? there : new Source(this, wish, follower)
    if (source === there) {
      source.add(follower, wish)
    } else {
      this.#sources.set(wish.url, source)
      source.run().finally(() => this.#sources.get(wish.url) === source && this.#sources.delete(wish.url))
    }
    return {
      send(message) {
        if (message.nudge) source.nudge()
        if ('renewed' in message) follower.renewed?.(message.renewed)
      },
      close: () => source.remove(follower),
    }
  }

  /** Resolves when one more connection may be opened. */
  async turn() {
    if (this.#open >= STREAMS_MAX) await new Promise((resolve) => this.#turns.push(resolve))
    else this.#open += 1
  }

  done() {
    const next = this.#turns.shift()
    if (next) next()
    else this.#open -= 1
  }

  get crowded() {
    return this.#turns.length > 0
  }
}

/** The connection to one address, made again and again until it is over or nobody follows it. */
class Source {
  #hub
  #url
  #since
  #at
  #followers = new Set()
  #connection = null
  #sleeping = null
  #retryMs = 2_000
  #failures = 0
  #renewals = 0
  #info = null
  #state = null
  #quiet = false
  ended = false

  constructor(hub, { url, since, lastEventId }, follower) {
    this.#hub = hub
    this.#url = url
    this.#since = since
    this.#at = lastEventId
    this.#followers.add(follower)
  }

  add(follower, { since, lastEventId }) {
    this.#followers.add(follower)
    if (lastEventId || !beginsNow(this.#url, since)) {
      // It wants what the others have had: from there once more, and each takes only what it has not seen.
      for (const other of this.#followers) if (other !== follower) other.seen ??= this.#at
      this.#at = lastEventId
      this.#since = since
      this.#again('joined')
    } else {
      this.#open(follower)
      if (this.#state) follower.send({ name: 'state', value: this.#state })
    }
  }

  #open(follower) {
    if (!this.#info || (this.#quiet && follower.opened)) return
    follower.seen ??= this.#at
    follower.opened = true
    follower.send({ name: 'open', value: this.#info, id: follower.seen })
  }

  remove(follower) {
    this.#followers.delete(follower)
    if (!this.#followers.size) this.#again('left')
  }

  nudge() {
    this.#sleeping?.()
  }

  async run() {
    while (this.#followers.size && !this.ended) {
      await this.#hub.turn()
      let waitMs = 0
      try {
        if (this.#followers.size) waitMs = await this.#connect()
      } finally {
        this.#hub.done()
      }
      if (waitMs && this.#followers.size && !this.ended) await this.#sleep(waitMs)
    }
  }

  /** One connection from its request to its end; gives how long to wait before the next one. */
  async #connect() {
    const connection = (this.#connection = new AbortController())
    const alive = watchdog(connection)
    try {
      const response = await fetch(this.#address(), {
        headers: { Accept: 'text/event-stream' },
        cache: 'no-store',
        credentials: 'same-origin',
        signal: connection.signal,
      })
      if (response.status !== 200) return await this.#refused(response)
      if (!response.headers.get('content-type')?.startsWith('text/event-stream')) return this.#failed(200)
      const turn = setInterval(() => this.#hub.crowded && this.#again('turn'), TURN_MS)
      connection.signal.addEventListener('abort', () => clearInterval(turn))
      const last = await read(response.body, alive, (frame) => this.#take(frame, alive))
      return FINAL.has(last) ? 0 : this.#waiting(this.#retryMs, 200)
    } catch {
      const why = connection.signal.reason
      this.#quiet = why === 'turn' || why === 'joined'
      return this.#quiet || why === 'left' ? 0 : this.#failed(0)
    } finally {
      alive.stop()
      connection.abort('done')
    }
  }

  #address() {
    const url = new URL(this.#url)
    if (this.#at) {
      url.searchParams.set('last_event_id', this.#at)
      url.searchParams.delete('since')
    } else if (this.#since) url.searchParams.set('since', this.#since)
    return url
  }

  #take({ id, event, data, retry }, alive) {
    if (retry) this.#retryMs = retry
    if (id) this.#at = id
    if (!event) return
    const value = JSON.parse(data)
    if (event === 'stream.open') {
      alive.every(value.heartbeatS * 2_500)
      this.#failures = this.#renewals = 0
      if (!this.#at && beginsNow(this.#url, this.#since)) this.#at = value.head
      this.#info = value
      for (const follower of this.#followers) this.#open(follower)
      this.#quiet = false
      this.#tell('state', (this.#state = { name: 'open' }))
    } else if (event === 'stream.gap') {
      // Whoever has seen more than there is has seen it in a log that is lost.
      for (const follower of this.#followers) if (isBehind(this.#info.head, follower.seen ?? '')) follower.seen = null
      this.#tell('gap', value)
    } else if (!event.startsWith('stream.')) {
      for (const follower of this.#followers) {
        if (!isBehind(follower.seen, id)) continue
        follower.seen = id
        follower.send({ name: 'event', value, id })
      }
    }
  }

  async #refused(response) {
    const { status } = response
    if (status === 204) return this.#end('over', status)
    if (status === 401) {
      const url = await this.#renewed()
      // Without an answer (its page is offline, its tab frozen) there is another try after a while.
      if (url === undefined) return this.#failed(status)
      if (url === null || ++this.#renewals > RENEWALS_MAX) return this.#end('unauthorized', status)
      this.#url = url
      return this.#renewals > 1 ? this.#failed(status) : 0
    }
    if (status < 500 && !LASTING.has(status)) return this.#end('refused', status)
    return this.#failed(status, Number(response.headers.get('retry-after')) * 1_000 || 0)
  }

  /** Another address, from the first of those who follow that can bring one; null when none of them can. */
  async #renewed() {
    const follower = [...this.#followers].find((each) => each.renews)
    if (!follower) return null
    return new Promise((resolve) => {
      follower.renewed = resolve
      follower.send({ name: 'renew' })
      setTimeout(resolve, RENEW_MS)
    })
  }

  #failed(status, atLeastMs = 0) {
    const waitMs = Math.min(RETRY_MAX_MS, this.#retryMs * 2 ** this.#failures++) * (0.5 + Math.random() / 2)
    return this.#waiting(Math.max(waitMs, atLeastMs), status)
  }

  #waiting(inMs, status) {
    this.#tell('state', (this.#state = { name: 'waiting', status, inMs }))
    return inMs
  }

  #end(reason, status) {
    this.ended = true
    this.#tell('end', { reason, status })
    return 0
  }

  #again(why) {
    this.#connection?.abort(why)
    this.nudge()
  }

  #tell(name, value) {
    for (const follower of this.#followers) follower.send({ name, value })
  }

  #sleep(ms) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms)
      this.#sleeping = () => (clearTimeout(timer), resolve())
    })
  }
}

/** Ends a connection on which nothing has come for too long: two heartbeats and a half, 40 s before the first. */
function watchdog(connection) {
  let ms = 40_000
  let timer = null
  const alive = () => {
    clearTimeout(timer)
    timer = setTimeout(() => connection.abort('silent'), ms)
  }
  alive.every = (otherMs) => (ms = otherMs || ms)
  alive.stop = () => clearTimeout(timer)
  alive()
  return alive
}

/** Reads server-sent events (WHATWG, 9.2.6), in order; gives the type of the last one. */
async function read(body, alive, take) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader()
  let rest = ''
  let frame = {}
  let last
  for (;;) {
    const { done, value } = await reader.read()
    if (done) return last
    alive()
    const lines = (rest + value).split(/\r?\n/)
    rest = lines.pop()
    for (const line of lines) {
      if (line === '') {
        take(frame)
        last = frame.event ?? last
        frame = {}
        continue
      }
      const colon = line.indexOf(':')
      const field = colon < 0 ? line : line.slice(0, colon)
      const text = colon < 0 ? '' : line.slice(colon + 1).replace(/^ /, '')
      if (field === 'data') frame.data = 'data' in frame ? `${frame.data}\n${text}` : text
      else if (field === 'retry') frame.retry = Number(text) || undefined
      else if (field) frame[field] = text
    }
  }
}

/** Whether an event of this id comes after the one that was seen; those of another epoch do. */
function isBehind(seen, id) {
  const [epoch, number] = (seen ?? '').split('-')
  const [otherEpoch, otherNumber] = id.split('-')
  return epoch !== otherEpoch || Number(number) < Number(otherNumber)
}

/** Whether the relay begins this stream with what comes next, and not with what has been. */
function beginsNow(url, since) {
  const { pathname, searchParams } = new URL(url)
  const from = since ?? searchParams.get('since')
  if (from) return from === 'now'
  return !/\/jobs\/[^/]+\/events$/.test(pathname) && !searchParams.has('ticket') && !searchParams.has('job')
}

if (typeof SharedWorkerGlobalScope !== 'undefined' && globalThis instanceof SharedWorkerGlobalScope) {
  const hub = new Hub()
  globalThis.onconnect = ({ ports: [port] }) => {
    let link = null
    port.onmessage = ({ data }) => {
      if (data.wish) link = hub.join(data.wish, (message) => port.postMessage(message))
      else if (data.lock) globalThis.navigator.locks.request(data.lock, () => link?.close())
      else if (data.leave) link?.close()
      else link?.send(data)
    }
  }
}
