package bridge

// Publish is how a provider's text is made fit to be shown.
var Publish = publish

// UUID is how the feed's ids are read.
var UUID = uuid
