/* Pages that are opened from disk may not start workers. The search of the theme knows `IFrameWorker`:
   a frame that runs the worker's script and passes messages on. */
if (location.protocol === "file:") {
  window.IFrameWorker = class extends EventTarget {
    constructor(address) {
      super();
      this.waiting = [];
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      this.frame.srcdoc = `<script>
        window.onmessage = null;
        const toPage = message => parent.dispatchEvent(
          new CustomEvent("iframe-worker", {detail: {frame: window, message}}));
        window.postMessage = toPage;
        window.importScripts = (...addresses) => addresses.reduce((done, address) => done.then(() =>
          new Promise((resolve, reject) => {
            const script = document.createElement("script");
            script.src = address;
            script.onload = resolve;
            script.onerror = reject;
            document.body.append(script);
          })), Promise.resolve());
      <\/script><body><script src="${new URL(address, location.href)}"><\/script></body>`;
      window.addEventListener("iframe-worker", event => {
        if (event.detail.frame === this.frame.contentWindow)
          this.dispatchEvent(new MessageEvent("message", {data: event.detail.message}));
      });
      this.frame.addEventListener("load", () => {
        this.ready = true;
        this.waiting.splice(0).forEach(message => this.postMessage(message));
      });
      document.addEventListener("DOMContentLoaded", () => document.body.append(this.frame));
      if (document.body) document.body.append(this.frame);
    }
    postMessage(message) {
      if (!this.ready) return this.waiting.push(message);
      this.frame.contentWindow.dispatchEvent(new MessageEvent("message", {data: message}));
    }
    terminate() {
      this.frame.remove();
    }
  };
  window.Worker = window.IFrameWorker;
}
