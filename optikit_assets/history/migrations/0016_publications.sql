-- Releases that were pushed to other places.

CREATE TABLE publications (
    publication  VARCHAR PRIMARY KEY,
    target       VARCHAR NOT NULL,
    place        VARCHAR NOT NULL,
    model        VARCHAR NOT NULL,
    slo          VARCHAR NOT NULL,
    bundle_key   VARCHAR NOT NULL,
    release      VARCHAR NOT NULL,
    uri          VARCHAR NOT NULL,
    alias        VARCHAR NOT NULL,
    sent         INTEGER NOT NULL,
    published_by VARCHAR NOT NULL,
    published_at TIMESTAMPTZ NOT NULL
);
COMMENT ON TABLE publications IS 'One push of a release, weights and bundle, to a publishing target.';
COMMENT ON COLUMN publications.publication IS 'id of the push';
COMMENT ON COLUMN publications.target IS 'publishing target (recipes/publish/)';
COMMENT ON COLUMN publications.place IS 'address of the target';
COMMENT ON COLUMN publications.bundle_key IS 'content key of the bundle';
COMMENT ON COLUMN publications.release IS 'key of the release: over the content of weights and bundle';
COMMENT ON COLUMN publications.uri IS 'what a server takes the weights from';
COMMENT ON COLUMN publications.alias IS 'alias that names the release since then';
COMMENT ON COLUMN publications.sent IS 'files or blobs that were not there before';
COMMENT ON COLUMN publications.published_by IS 'who pushed';
COMMENT ON COLUMN publications.published_at IS 'when the alias was moved';
