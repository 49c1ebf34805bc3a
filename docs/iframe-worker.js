/* The search of a site that is opened from the file system. A browser runs no Worker there, so the search's script runs in
   a hidden frame of the page and exchanges messages with it as a Worker would. The theme looks for this class by its name. */
"use strict";

class IFrameWorker extends EventTarget {
  constructor(url) {
    super();
    this.frame = document.createElement("iframe");
    this.frame.hidden = true;
    document.body.appendChild(this.frame);
    const worker = this.frame.contentWindow;
    worker.document.open();
    worker.document.write(`<html><body><script src="${url}"></script></body></html>`);
    worker.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
    this.ready = new Promise((resolve) => this.frame.addEventListener("load", resolve));
    worker.document.close();
  }

  set onmessage(handler) {
    this.addEventListener("message", handler);
  }

  postMessage(data) {
    this.ready.then(() => {
      const worker = this.frame.contentWindow;
      worker.dispatchEvent(new worker.MessageEvent("message", { data }));
    });
  }

  terminate() {
    this.frame.remove();
  }
}

if (location.protocol === "file:") {
  window.IFrameWorker = IFrameWorker;
  window.Worker = IFrameWorker;
}
