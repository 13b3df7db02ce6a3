"""The routes of the service, one module for each protocol. All of them answer through `Service`."""
